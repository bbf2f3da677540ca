"""The log against a model of it in plain Python."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.events import Appended, Kind, NewEvent, Outcome, Position
from eventstore.log import EventLog
from eventstore.postgres.pool import open_pool
from eventstore.sealing.keys import MasterKey
from eventstore.verify.whole import verify
from tests.support.events import BY
from tests.support.server import as_service

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool
    from tests.support.server import Server

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = MasterKey(bytes(32))


class Item(NamedTuple):
    """What an operation appends: small ranges, so that identities and contents meet."""

    user: int
    name: int
    content: int

    def event(self) -> NewEvent:
        """Make the event."""
        payload = f"{self.user} {self.name} {self.content}".encode()
        about = (Kind.UPDATED, NOON, str(self.name).encode(), str(self.content).encode())
        return NewEvent("app", str(self.user), *about, payload)


class Model:
    """The log as it should be."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[tuple[int, bytes | None]]] = [[] for _ in range(partitions)]
        self.known: dict[tuple[int, int], tuple[int, Position]] = {}
        self.erased: set[int] = set()

    def appended(self, answers: list[tuple[Item, Appended]]) -> None:
        """Check what the log says of items, in whatever order it took them, and take them over."""
        new = [(answer.position, item) for item, answer in answers if _is_new(answer)]
        for position, item in sorted(new):
            assert (item.user, item.name) not in self.known, "the same event was appended twice"
            events = self.partitions[position.partition]
            events.append((item.user, item.event().payload))
            assert position.number == len(events), "a position was left out, or given twice"
            self.known[item.user, item.name] = item.content, position
        for item, answer in answers:
            content, position = self.known[item.user, item.name]
            assert answer.position == position
            if not _is_new(answer):
                same = item.content == content
                assert answer.outcome is (Outcome.DUPLICATE if same else Outcome.CONFLICT)

    def erase(self, user: int, partition: int, position: Position | None) -> None:
        """Check what the log says of an erasure, and take it over."""
        heard_of = any(user == one for one, _ in self.partitions[partition])
        assert (position is not None) == (heard_of and user not in self.erased)
        if position is None:
            return
        self.erased.add(user)
        self.known = {key: value for key, value in self.known.items() if key[0] != user}
        self.partitions[partition].append((user, None))
        assert position.number == len(self.partitions[partition])

    def read(self, partition: int) -> list[tuple[str, bytes | None]]:
        """What reading a partition gives."""
        return [
            (str(user), None if user in self.erased else payload)
            for user, payload in self.partitions[partition]
        ]


def _is_new(answer: Appended) -> bool:
    return answer.outcome is Outcome.APPENDED


items = st.builds(Item, st.integers(0, 3), st.integers(0, 4), st.sampled_from((0, 0, 0, 1)))
operations = st.one_of(
    st.tuples(st.just("append"), st.lists(items, min_size=1, max_size=6)),
    st.tuples(st.just("concurrently"), st.lists(items, min_size=2, max_size=12)),
    st.tuples(st.just("erase"), st.integers(0, 4)),
    st.tuples(st.just("restart"), st.none()),
)


@pytest.mark.parametrize("partitions", [1, 4])
@given(steps=st.lists(operations, min_size=1, max_size=12))
@settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_log_behaves_as_its_model(
    server: Server, partitions: int, steps: list[tuple[str, object]]
) -> None:
    """Appends, duplicates, concurrent appends, reads, erasures and restarts, in any order."""
    async with server.database(partitions) as url:
        pool = await open_pool(as_service(url), size=4, timeout_s=30)
        try:
            await _play(pool, Model(partitions), steps)
        finally:
            await pool.close()


async def _play(pool: Pool, model: Model, steps: list[tuple[str, object]]) -> None:
    logs = [await EventLog.open(pool, KEY), await EventLog.open(pool, KEY)]
    for what, argument in steps:
        if what == "restart":
            logs = [await EventLog.open(pool, KEY), await EventLog.open(pool, KEY)]
        elif isinstance(argument, int):
            stream = logs[0].stream("app", str(argument))
            erasure = await logs[0].erase(stream, BY)
            model.erase(argument, stream.partition, erasure.position)
        elif isinstance(argument, list):
            await _append(logs, model, argument, together=what == "append")
        await _check(logs[0], model)
    assert await verify(logs[0], notes=[], progress=lambda *_: None) == []


async def _append(
    logs: list[EventLog], model: Model, wanted: list[Item], *, together: bool
) -> None:
    """Append in one call, or each item in a call of its own through two logs at once."""
    if together:
        answers = await logs[0].append([item.event() for item in wanted])
    else:
        calls = [logs[i % 2].append([item.event()]) for i, item in enumerate(wanted)]
        answers = [answer for (answer,) in await asyncio.gather(*calls)]
    model.appended(list(zip(wanted, answers, strict=True)))


async def _check(log: EventLog, model: Model) -> None:
    heads = [head.position.number for head in await log.heads()]
    assert heads == [len(events) for events in model.partitions]
    for partition in range(len(heads)):
        found = await log.read(Position(partition, 0), 1_000)
        assert [event.position.number for event in found] == list(range(1, len(found) + 1))
        readable = [(event.stream.user_id, event.payload) for event in found]
        assert readable == model.read(partition)
