"""The read models and the answers about the past, through a real log and a real projector."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.fold.events import TIE_BREAK_BYTES
from projections.project.projector import Projector, catch_up
from projections.prove.proof import prove, prove_numbers
from projections.prove.ranges import Range
from projections.query.users import FOREVER, Page
from tests.support.deliveries import T0, T0_MS
from tests.support.events import BY
from tests.support.lives import (
    Told,
    has_ties,
    identified,
    in_effective_order,
    reference,
    tellings,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    import asyncpg

    from eventstore.sealing.keys import DataKey
    from tests.conftest import Stack

    OpenStack = Callable[[str], Awaitable[Stack]]

MS = timedelta(milliseconds=1)
USERS = ("u0", "u1", "u2")
_applications = (f"application-{n}" for n in itertools.count())
# One database serves all examples of a test: each has an application of its own.
through_a_database = settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def lives(draw: st.DrawFn, users: int, events_max: int) -> dict[str, list[Told]]:
    """What is told of some users."""
    found: dict[str, list[Told]] = {}
    for user in USERS[:users]:
        told = draw(st.lists(tellings(moments=5), min_size=1, max_size=events_max))
        found[user] = identified(told) if draw(st.booleans()) else told
    return found


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[dict[str, list[Told]], set[str], list[tuple[str, Any]]]:
    """Lives, who is erased in the end, and one way in which all that may reach the service."""
    told = draw(lives(3, 5))
    pairs = [(user, one) for user, events in told.items() for one in events]
    again = draw(st.lists(st.sampled_from(pairs), max_size=4))
    steps: list[tuple[str, Any]] = []
    rest = draw(st.permutations(pairs + again))
    while rest:
        size = draw(st.integers(1, len(rest)))
        steps.append(("deliver", rest[:size]))
        rest = rest[size:]
        steps.append((draw(st.sampled_from(["project", "interrupt", "wait"])), None))
    erased = draw(st.sets(st.sampled_from(USERS), max_size=1))
    for user in erased:
        # After the first delivery: before it there is nobody to erase, and nothing to forget.
        steps.insert(draw(st.integers(1, len(steps))), ("erase", user))
        steps.append(("erase", user))
    return told, erased, steps


async def _take(stack: Stack, application: str, step: str, argument: Any, batch_max: int) -> None:
    if step == "deliver":
        bodies = [one.body(user, application) for user, one in argument]
        receipts = await asyncio.gather(*map(stack.ingest.deliver, bodies))
        assert not any(receipt.quarantined for receipt in receipts)
    elif step == "erase":
        await stack.log.erase(stack.log.stream(application, argument), BY)
    elif step == "project":
        await catch_up(stack.log, batch_max)
    elif step == "interrupt":
        projector = Projector(stack.log, batch_max=batch_max, poll_s=60)
        projector.start()
        await asyncio.sleep(0)
        await stack.log.heads()  # about as long as a batch needs to get half way
        await projector.stop()


async def _rows(stack: Stack, application: str, users: Iterable[str]) -> list[Any]:
    """Return what the read models have of some users, but for what tells of arrival, or of keys."""
    found: list[Any] = []
    for user in sorted(users):
        stream = stack.log.stream(application, user)
        row = await stack.pool.fetchrow(
            "SELECT lifecycle, tie_break, kind, occurred_at FROM users WHERE stream_id = $1",
            stream.stream_id,
        )
        assert row
        history = await stack.read_model.history(stream)
        shown = [
            (entry.event_type, entry.occurred_at, entry.stated_at, entry.summary, entry.changes)
            for entry in history.entries
        ]
        entries = await stack.pool.fetch(
            """SELECT tie_break, kind, occurred_at, lifecycle_before, lifecycle_after
            FROM userlog.history WHERE stream_id = $1 ORDER BY occurred_at, kind, tie_break""",
            stream.stream_id,
        )
        rows = [_comparable(one) for one in (row, *entries)]
        state = await stack.read_model.user(stream)
        assert state
        found.append((user, bytes(state.state), state.company_id, shown, rows))
    return found


def _comparable(row: asyncpg.Record) -> list[Any]:
    return [
        value[:-TIE_BREAK_BYTES] if name == "tie_break" else value for name, value in row.items()
    ]


async def _key(stack: Stack, application: str, user: str) -> DataKey:
    (key,) = await stack.log.keyring.find_or_make([stack.log.stream(application, user)])
    return key.data_key


@given(arrived=arrivals(), batch_max=st.integers(1, 20))
@through_a_database
async def test_any_way_of_arriving_ends_in_the_same_rows(
    stack: Stack,
    arrived: tuple[dict[str, list[Told]], set[str], list[tuple[str, Any]]],
    batch_max: int,
) -> None:
    """Whatever comes when and how often, rows equal those of the sorted set, and the reference.

    Where the user's key alone decides, what came in order has another order than what did not.
    """
    told, erased, steps = arrived
    shuffled, ordered = next(_applications), next(_applications)
    for step, argument in steps:
        await _take(stack, shuffled, step, argument, batch_max)
    for user, events in told.items():
        for one in in_effective_order(events, user):
            await stack.ingest.deliver(one.body(user, ordered))
        if user in erased:
            await stack.log.erase(stack.log.stream(ordered, user), BY)
    await catch_up(stack.log, 1_000)
    known = await stack.pool.fetch(
        "SELECT application_id, user_id FROM userlog.users WHERE application_id = ANY($1)",
        [shuffled, ordered],
    )
    left = told.keys() - erased
    assert {tuple(row) for row in known} == {(a, u) for a in (shuffled, ordered) for u in left}
    for application in (shuffled, ordered):
        for user in told:
            stream = stack.log.stream(application, user)
            only = Range(stream.partition, stream.stream_id, stream.stream_id)
            assert not (await prove(stack.log, only)).differing, "as if folded at once"
    assert not (await prove_numbers(stack.log, 0, None)).differing
    untied = [user for user in left if not has_ties(told[user])]
    assert await _rows(stack, shuffled, untied) == await _rows(stack, ordered, untied)
    for user in left:
        key = await _key(stack, shuffled, user)
        sorted_events = in_effective_order(told[user], user, shuffled, key)
        stream = stack.log.stream(shuffled, user)
        now = await stack.read_model.user(stream)
        assert now
        fields = msgspec.json.decode(now.state)
        assert {"fields": fields, "lifecycle": now.lifecycle} == reference(sorted_events)
        entries = (await stack.read_model.history(stream)).entries
        assert len(entries) == len(sorted_events)
        numbers = [int(entry.position.partition(":")[2]) for entry in entries]
        assert [entry.late for entry in entries] == [
            any(later < number for later in numbers[i:]) for i, number in enumerate(numbers)
        ]


def _boundaries(times: set[datetime]) -> list[datetime | None]:
    return [None, *sorted({time + step for time in times for step in (-MS, 0 * MS, MS)})]


@given(told=lives(1, 9), stops=st.sets(st.integers(0, 8)), projected=st.booleans())
@through_a_database
async def test_every_moment_is_answered_as_by_brute_force(
    stack: Stack, told: dict[str, list[Told]], stops: set[int], projected: bool
) -> None:
    """`valid_at`, `known_at` and both, at every boundary and a millisecond beside it.

    However much of it the projector has seen.
    """
    application, (user, arrived) = next(_applications), *told.items()
    stream = stack.log.stream(application, user)
    recorded: list[tuple[datetime, int, Told]] = []
    for n, one in enumerate({t.identity: t for t in arrived}.values()):
        await stack.admin.execute(
            "UPDATE userlog.log_head SET recorded_at = recorded_at + interval '3 milliseconds'"
        )
        receipt = await stack.ingest.deliver(one.body(user, application))
        (head,) = await stack.log.heads()
        assert receipt.positions == [str(head.position)]
        recorded.append((head.recorded_at, head.position.number, one))
        if projected or n in stops:
            await catch_up(stack.log, 10)
    key = await _key(stack, application, user)
    for known_at in _boundaries({time for time, _, _ in recorded}):
        seen = [(n, t) for time, n, t in recorded if known_at is None or time <= known_at]
        for valid_at in _boundaries({T0 + (t.at - T0_MS) * MS for t in arrived}):
            until = None if valid_at is None else T0_MS + (valid_at - T0) // MS
            events = [(n, t) for n, t in seen if until is None or t.at <= until]
            events.sort(key=lambda pair: pair[1].rank(user, application, key))
            if valid_at or known_at:
                assert await _answer(stack, stream, valid_at, known_at) == _expected(events)
            if projected or known_at:
                page = Page(valid_at=valid_at or FOREVER)
                history = await stack.read_model.history(stream, known_at, page)
                positions = [f"0:{number}" for number, _ in events]
                assert [entry.position for entry in history.entries] == positions


async def _answer(
    stack: Stack, stream: Any, valid_at: datetime | None, known_at: datetime | None
) -> Any:
    found = await stack.read_model.user(stream, valid_at, known_at)
    if found is None:
        return None
    fields = msgspec.json.decode(found.state)
    return {"fields": fields, "lifecycle": found.lifecycle, "last": found.as_of.position}


def _expected(events: list[tuple[int, Told]]) -> Any:
    if not events:
        return None
    return {**reference([told for _, told in events]), "last": f"0:{events[-1][0]}"}
