"""Rotation of the master key: nothing is acknowledged that the new key can't open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import (
    LogError,
    MasterKeyMovedError,
    SealBrokenError,
    UnavailableError,
    WrongKeyError,
)
from eventstore.events import Position
from eventstore.log import EventLog
from eventstore.postgres.pool import open_owner_pool
from eventstore.quarantine import Quarantine
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.own_keys import OwnKeys
from eventstore.sealing.rotation import rotate
from eventstore.verify.whole import verify
from projections.project.projector import catch_up
from projections.prove.scrubber import Scrubber
from tests.support.database import HEADS, blocked, holding
from tests.support.deliveries import APP, delivery
from tests.support.events import BY, event
from tests.support.serving import SECRETS, assert_problem, serving
from tests.support.waiting import meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from eventstore.postgres.pool import Pool
    from tests.conftest import Stack
    from tests.support.serving import Answer

OLD, NEW = b"a master key for tests only 32 b", b"another key, for tests only 32 b"
OTHER = b"a third one, for tests only 32 b"


@pytest.fixture
async def owner(stack: Stack) -> AsyncIterator[Pool]:
    """A pool with the rights of the schema's owner."""
    pool = await open_owner_pool(stack.url, size=3, timeout_s=30)
    yield pool
    await pool.close()


async def rotated(owner: Pool, partitions: int = 1) -> int:
    """Rotate from the old key to the new one; return how many keys were wrapped again."""
    return await rotate(owner, partitions, MasterKey(NEW, OLD), lambda _: None)


@pytest.mark.parametrize("partitions", [1, 4], indirect=True)
async def test_every_key_is_wrapped_again_and_no_event_touched(stack: Stack, owner: Pool) -> None:
    """Afterwards the new master key opens everything alone, the old one nothing."""
    for number in range(20):
        await stack.ingest.deliver(delivery(f"u{number}", "create", application_id="app"))
    await stack.ingest.deliver(b"not json")
    search = await stack.log.own_keys.find_or_make("search")
    await stack.log.erase(stack.log.stream("app", "u3"), BY)
    events = await stack.pool.fetch("SELECT * FROM userlog.events ORDER BY partition, position")
    own = ("audit", "master", "quarantine", "search")
    assert await rotated(owner, stack.log.partitions) == 20 + len(own) - 1
    assert await rotated(owner, stack.log.partitions) == 0
    after = await stack.pool.fetch("SELECT * FROM userlog.events ORDER BY partition, position")
    assert after == events
    keys = await stack.pool.fetch(
        "SELECT name, fingerprint, wrapped FROM userlog.keys ORDER BY name"
    )
    new = MasterKey(NEW).current
    assert [(row["name"], row["fingerprint"]) for row in keys] == [(name, new) for name in own]
    log = await EventLog.open(owner, MasterKey(NEW))
    assert await log.own_keys.find("search") == search
    assert await verify(log, notes=[], progress=lambda *_: None) == []
    with pytest.raises(WrongKeyError, match=MasterKey(NEW).current.hex()):
        await EventLog.open(owner, MasterKey(OLD))


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_under_load(stack: Stack, owner: Pool, partitions: int) -> None:
    """Who holds both keys is refused nothing; who holds the old one alone, everything afterwards.

    Each event that was acknowledged to either opens with the new key.
    """
    old = stack.log
    await old.append([event("known")])
    both = await EventLog.open(stack.pool, MasterKey(NEW, OLD))
    acknowledged: set[Position] = set()
    refused: list[Exception] = []
    stop = asyncio.Event()

    async def load(log: EventLog, name: str, *, may_be_refused: bool) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                # A new user each time, whose key is wrapped just then, and a known one.
                given = [event(f"{name}{number}"), event("known", f"{name} {number}")]
                answers = await log.append(given)
            except MasterKeyMovedError as error:
                assert may_be_refused
                refused.append(error)
                await asyncio.sleep(0)
            else:
                acknowledged.update(answer.position for answer in answers)

    async def loads() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(load(both, f"both{n}-", may_be_refused=False))
                group.create_task(load(old, f"old{n}-", may_be_refused=True))

    async with meanwhile(loads()) as running:
        await until(lambda: len(acknowledged) > 100)
        rewrapped = await rotated(owner, partitions)
        before = len(acknowledged)
        await until(lambda: refused and len(acknowledged) > before + 100)
        stop.set()
        await running
    assert rewrapped
    new = await EventLog.open(stack.pool, MasterKey(NEW))
    seen: set[Position] = set()
    for partition in range(partitions):
        events = await new.read(Position(partition, 0), len(acknowledged) + 1_000)
        assert all(one.payload for one in events)
        seen |= {one.position for one in events}
    assert acknowledged <= seen
    with pytest.raises(MasterKeyMovedError, match=MasterKey(NEW).current.hex()):
        await old.ready()
    with pytest.raises(WrongKeyError):  # one that is started late
        await EventLog.open(stack.pool, MasterKey(OLD))


async def test_quarantine_and_erasure(stack: Stack, owner: Pool) -> None:
    """They follow the log to the new key, or are refused, as appends are."""
    both = MasterKey(NEW, OLD)
    log = await EventLog.open(stack.pool, both)
    follower = Quarantine(stack.pool, 1, log.own_keys)
    await log.append([event("u1"), event("u2")])
    await rotated(owner)
    for refused in (
        stack.quarantine.put(b"body", "no-users", ""),
        stack.log.erase(stack.log.stream(APP, "u1"), BY),
    ):
        with pytest.raises(MasterKeyMovedError):
            await refused
    assert (await log.erase(log.stream(APP, "u1"), BY)).position
    key = await follower.put(b"body", "no-users", "")
    found = await Quarantine(stack.pool, 1, OwnKeys(stack.pool, MasterKey(NEW))).show(key)
    assert found
    assert found[1] == b"body"


async def test_what_was_sealed_before_is_sealed_again(stack: Stack, owner: Pool) -> None:
    """What waits for the head while it moves comes back, and goes under the new key."""
    log = await EventLog.open(stack.pool, MasterKey(NEW, OLD))
    await log.append([event("first")])
    async with holding(stack.url, HEADS) as holder:
        one = asyncio.create_task(log.append([event("waits in the database")]))
        await blocked(stack.admin)
        two = asyncio.create_task(log.append([event("waits in the queue")]))
        await asyncio.sleep(0)
        await holder.execute("UPDATE userlog.log_head SET fingerprint = $1", MasterKey(NEW).new)
        await holder.execute("COMMIT")
        answers = [*await one, *await two]
        await holder.execute("BEGIN")
    assert sorted(answer.position.number for answer in answers) == [2, 3]
    await stack.admin.execute("DELETE FROM userlog.keys")  # of which only the heads have moved
    events = await (await EventLog.open(owner, MasterKey(NEW, OLD))).read(Position(0, 1), 10)
    wrapped = await stack.admin.fetch("SELECT * FROM userlog.streams WHERE user_id <> 'first'")
    for row in wrapped:
        MasterKey(NEW).unwrap(row["data_key"], row["stream_id"].bytes)
    assert all(one.payload for one in events)


async def test_killed_and_run_again(stack: Stack, owner: Pool) -> None:
    """Until a rotation has come to its end, both keys are needed, and that is said."""
    await stack.log.append([event(f"u{n}") for n in range(30)])
    await stack.admin.execute(
        "UPDATE userlog.streams SET data_key = 'x' || data_key WHERE user_id = 'u17'"
    )
    with pytest.raises(SealBrokenError):
        await rotated(owner)
    with pytest.raises(WrongKeyError, match="is unfinished"):
        await EventLog.open(stack.pool, MasterKey(NEW))
    log = await EventLog.open(stack.pool, MasterKey(NEW, OLD))
    await log.append([event("meanwhile")])
    await stack.admin.execute(
        "UPDATE userlog.streams SET data_key = substr(data_key, 2) WHERE user_id = 'u17'"
    )
    assert await rotated(owner) == 30
    assert len(await (await EventLog.open(owner, MasterKey(NEW))).read(Position(0, 0), 50)) == 31


async def test_two_rotations_at_once(stack: Stack, owner: Pool) -> None:
    """The second is refused, whichever keys it has: each would undo what the other does."""
    await stack.log.append([event(f"u{n}") for n in range(3)])
    async with holding(stack.url, HEADS) as holder:
        first = asyncio.create_task(rotated(owner))
        await blocked(stack.admin)
        for keys in (MasterKey(OTHER, OLD), MasterKey(OLD, NEW), MasterKey(NEW, OLD)):
            with pytest.raises(LogError, match="another rotation is running"):
                await rotate(owner, 1, keys, lambda _: None)
        await holder.execute("COMMIT")
        assert await first == 3
        await holder.execute("BEGIN")
    assert len(await (await EventLog.open(owner, MasterKey(NEW))).read(Position(0, 0), 9)) == 3


async def test_a_rotation_that_comes_too_late(stack: Stack, owner: Pool) -> None:
    """One that was opened before another moved the log does nothing."""
    await stack.log.append([event("u1")])
    await rotated(owner)
    with pytest.raises(MasterKeyMovedError):
        await rotate(owner, 1, MasterKey(OTHER, OLD), lambda _: None)
    assert len(await (await EventLog.open(owner, MasterKey(NEW))).read(Position(0, 0), 9)) == 1


async def test_nobody_is_parked_for_the_wrong_key(stack: Stack, owner: Pool) -> None:
    """A projector with the old key alone waits, with the reason, and parks nobody."""
    await stack.log.append([event("u1")])
    await rotated(owner)
    stack.log.keyring.forget(stack.log.stream(APP, "u1").stream_id.bytes)
    with pytest.raises(UnavailableError, match="is written with the master key"):
        await catch_up(stack.log, 10)
    assert await stack.pool.fetchval("SELECT count(*) FROM parked") == 0
    assert await catch_up(await EventLog.open(owner, MasterKey(NEW)), 10) == 1


async def test_a_scrubber_waits_for_the_key(stack: Stack, owner: Pool) -> None:
    """With the old key alone it says which key it lacks, and not that a seal is broken."""
    await stack.ingest.deliver(delivery("u1"))
    await catch_up(stack.log, 10)
    await rotated(owner)
    stack.log.keyring.forget(stack.log.stream(APP, "u1").stream_id.bytes)
    with pytest.raises(UnavailableError, match="is written with the master key"):
        await Scrubber(stack.log, interval_s=0).scrub_some()


async def test_a_service_with_the_old_key(stack: Stack, owner: Pool) -> None:
    """It answers 503 with the reason to deliveries and questions, and is not ready."""
    async with serving(stack.url) as service:
        assert (await service.post(delivery("u1"))).status == 200
        await service.catch_up()
        path = f"/v1/applications/{APP}/users/u1"
        await rotated(owner)
        keyring = service.runtime.log.keyring
        asks: list[Callable[[], Awaitable[Answer]]] = [
            lambda: service.post(delivery("u2")),
            lambda: service.post(b"not json"),
            lambda: service.get(path, valid_at="2030-01-01T00:00:00Z"),
            lambda: service.get("/v1/events"),
            lambda: service.get("/health/ready"),
        ]
        for ask in asks:
            keyring.forget(stack.log.stream(APP, "u1").stream_id.bytes)
            answer = await ask()
            assert_problem(answer, 503)
            assert MasterKey(NEW).new.hex() in answer.body["detail"]
        assert (await service.get("/health/live")).status == 200


async def test_renewed(stack: Stack, owner: Pool) -> None:
    """A service that reads its secrets again goes on: with both, then with the new one alone."""
    secrets = type(SECRETS)(["secret"], OLD, None, "token", [])
    async with serving(stack.url, secrets=secrets) as service:

        async def posts(user: str) -> int:
            return (await service.post(delivery(user), secret="secret")).status

        assert await posts("u1") == 200
        secrets.renew(type(SECRETS)(["secret"], NEW, OLD, "token", []))
        assert await posts("u2") == 200
        assert stack.log.master_key.current == service.runtime.master_key.current
        await rotated(owner)
        assert await posts("u3") == 200
        secrets.renew(type(SECRETS)(["secret"], NEW, None, "token", []))
        assert await posts("u4") == 200
        assert (await service.get("/health/ready")).status == 200


async def test_two_begin_at_once(empty_stack: tuple[EventLog, EventLog]) -> None:
    """A new log belongs to whose event came first; the other key is refused from then on."""
    answers = await asyncio.gather(
        *(log.append([event(f"u{n}")]) for n, log in enumerate(empty_stack)),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["MasterKeyMovedError", "list"]


@pytest.fixture
async def empty_stack(stack: Stack) -> tuple[EventLog, EventLog]:
    """Two logs in an empty database, with different master keys."""
    return (
        await EventLog.open(stack.pool, MasterKey(OLD)),
        await EventLog.open(stack.pool, MasterKey(NEW)),
    )
