from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore import read
from eventstore.errors import QueueFullError, UnavailableError, WrongKeyError
from eventstore.events import CLOCK_AHEAD_MAX, Appended, Kind, NewEvent, Outcome, Position
from eventstore.group_commit import QueueLimits
from eventstore.log import EventLog
from eventstore.sealing.keyring import Keyring, KeyringLimits
from eventstore.sealing.keys import MasterKey
from tests.conftest import MASTER_KEY
from tests.support.database import (
    HEADS,
    assert_log_holds,
    blocked,
    connected,
    erase,
    holding,
    kill,
    positions,
)
from tests.support.deliveries import APP, T0
from tests.support.events import BY, event
from tests.support.parameters import MANY
from tests.support.proxy import proxied
from tests.support.waiting import PATIENCE_S, meanwhile, retried, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventstore.events import RecordedEvent
    from tests.conftest import Stack

    OpenStack = Callable[[str], Awaitable[Stack]]


_KILL_APPENDS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%userlog.append%' AND state = 'active'
    AND pid <> pg_backend_pid()
"""

_KILL_LOOK_UPS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%FROM userlog.streams%'
    AND wait_event_type = 'Lock'
    AND pid <> pg_backend_pid()
"""


def _outcomes(answers: list[Appended]) -> list[tuple[str, int]]:
    return [(answer.outcome.value, answer.position.number) for answer in answers]


async def _everything(stack: Stack) -> list[RecordedEvent]:
    found: list[RecordedEvent] = []
    for partition in range(stack.log.partitions):
        found += await read.read(stack.pool, stack.log.keyring, Position(partition, 0), 100_000)
    return found


async def _prepare_keys(stack: Stack, *user_ids: str) -> None:
    """Have keys at hand, so that appends reach the queue without waiting for the database."""
    await stack.log.keyring.find_or_make(stack.log.stream(APP, user_id) for user_id in user_ids)


async def test_append_and_read(stack: Stack) -> None:
    """What is appended gets dense positions and reads back as it was."""
    given = [event(f"u{n}", f"{n}", kind=Kind(n % 3 + 1)) for n in range(5)]
    assert _outcomes(await stack.log.append(given)) == [("appended", n) for n in range(1, 6)]
    assert _outcomes(await stack.log.append([event(name="6")])) == [("appended", 6)]
    read = await _everything(stack)
    assert [(e.stream.user_id, e.kind, e.occurred_at, e.payload) for e in read[:5]] == [
        (e.user_id, e.kind, e.occurred_at, e.payload) for e in given
    ]
    page = await stack.log.read(Position(0, 2), 2)
    assert [e.position.number for e in page] == [3, 4]
    assert await assert_log_holds(stack) == 6


async def test_duplicates(stack: Stack, open_stack: OpenStack) -> None:
    """The same event gets its first position: in a batch, later, elsewhere and after reopening."""
    one, two = event(name="1"), event(name="2")
    assert _outcomes(await stack.log.append([one, one, two, one])) == [
        ("appended", 1),
        ("duplicate", 1),
        ("appended", 2),
        ("duplicate", 1),
    ]
    assert _outcomes(await stack.log.append([two])) == [("duplicate", 2)]
    elsewhere = await open_stack(stack.url)
    assert _outcomes(await elsewhere.log.append([one, two])) == [("duplicate", 1), ("duplicate", 2)]
    assert await positions(stack.pool) == [1, 2]


async def test_same_name_other_user(stack: Stack) -> None:
    """Users of one id in two applications, and events of one name of two users, are apart."""
    given = [event("u"), event("v"), event("u", application_id="other")]
    assert _outcomes(await stack.log.append(given)) == [("appended", n) for n in (1, 2, 3)]


async def test_conflicts(stack: Stack) -> None:
    """Other content below the same identity is answered with the first one's position."""
    first, other = event(name="1", content="a"), event(name="1", content="b")
    answers = await stack.log.append([event(name="0"), first, other, first])
    assert _outcomes(answers)[1:] == [("appended", 2), ("conflict", 2), ("duplicate", 2)]
    assert _outcomes(await stack.log.append([other])) == [("conflict", 2)]
    assert await assert_log_holds(stack) == 2


@MANY
async def test_concurrent_appends(stack: Stack, open_stack: OpenStack) -> None:
    """However many append through two processes, each event is there once and none is missing."""
    logs = [stack.log, (await open_stack(stack.url)).log]
    given = [[event(f"u{n % 7}", f"{call} {n}") for n in range(20)] for call in range(40)]
    answers = await asyncio.gather(*(log.append(batch) for batch in given for log in logs))
    here, there = answers[::2], answers[1::2]
    for ours, theirs in zip(here, there, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.position == other.position
            assert {one.outcome, other.outcome} == {Outcome.APPENDED, Outcome.DUPLICATE}
    assert await assert_log_holds(stack) == 800
    assert {e.payload for e in await _everything(stack)} == {e.payload for b in given for e in b}


@MANY
async def test_reader_sees_no_gap(stack: Stack, open_stack: OpenStack, partitions: int) -> None:
    """A reader that polls while others write always sees every position below the highest."""
    logs = [stack.log, (await open_stack(stack.url)).log]

    async def write() -> None:
        await asyncio.gather(
            *(logs[n % 2].append([event(f"u{n % 9}", f"{n}")]) for n in range(300)),
            *(logs[n % 2].append([event(f"v{n}", f"{i}") for i in range(9)]) for n in range(50)),
        )

    seen, looks = 0, 0
    async with (
        connected(stack.url) as reader,
        meanwhile(write()) as writing,
        asyncio.timeout(PATIENCE_S),
    ):
        while not writing.done():
            now = [await positions(reader, partition) for partition in range(partitions)]
            assert all(found == list(range(1, len(found) + 1)) for found in now)
            assert sum(map(len, now)) >= seen
            seen, looks = sum(map(len, now)), looks + 1
        await writing
    assert looks > 3
    assert await assert_log_holds(stack) == 750


async def test_clock_set_back(stack: Stack) -> None:
    """recorded_at does not go back when the server's clock does."""
    await stack.log.append([event(name="1")])
    await stack.admin.execute(
        "UPDATE userlog.log_head SET recorded_at = '2999-01-01T00:00:00.001Z'"
    )
    await stack.log.append([event(name="2")])
    await stack.log.append([event(name="3")])
    times = [e.recorded_at for e in await _everything(stack)]
    assert times[0] < times[1] == times[2]
    assert times[2].year == 2999


async def test_two_processes_make_one_user(stack: Stack, open_stack: OpenStack) -> None:
    """When two processes make a user's key at once one remains, and every event opens with it."""
    other = await open_stack(stack.url)
    users = [f"u{n}" for n in range(30)]
    for one in (stack, other):
        await _prepare_keys(one, *users)  # each its own: neither is stored yet
    answers = await asyncio.gather(
        stack.log.append([event(user, "1") for user in users]),
        other.log.append([event(user, name) for user in users for name in "12"]),
    )
    assert await assert_log_holds(stack) == 60
    assert sum(a.outcome is Outcome.DUPLICATE for batch in answers for a in batch) == 30
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.streams") == 30
    third = await open_stack(stack.url)
    assert {e.payload for e in await _everything(third)} == {b"payload of 1", b"payload of 2"}


async def test_key_forgotten_during_look_up(stack: Stack) -> None:
    """A key that turns out stale while another call looks keys up does not break that call."""
    await _prepare_keys(stack, "at hand")
    both = [event("at hand"), event("to be looked up")]
    async with holding(stack.url, "LOCK TABLE userlog.streams"):
        appending = asyncio.create_task(stack.log.append(both))
        await blocked(stack.admin)
        stack.log.keyring.forget(stack.log.stream(APP, "at hand").stream_id.bytes)
    assert _outcomes(await appending) == [("appended", 1), ("appended", 2)]


async def test_look_ups_are_shared(stack: Stack) -> None:
    """While keys are looked up, all who come wait for one more; who leaves takes no one along."""
    names = [f"u{n}" for n in range(100)]
    async with holding(stack.url, "LOCK TABLE userlog.streams"):
        calls = [asyncio.create_task(stack.log.append([event(names[0])]))]
        await blocked(stack.admin)
        calls += [asyncio.create_task(stack.log.append([event(name)])) for name in names[1:]]
        await asyncio.sleep(0)
        looking = "SELECT count(*) FROM pg_locks WHERE relation = 'userlog.streams'::regclass"
        assert await stack.admin.fetchval(f"{looking} AND NOT granted") == 1
        for call in calls[::2]:
            call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in answers] == [asyncio.CancelledError, list] * 50
    assert await assert_log_holds(stack) == 50


async def test_look_up_that_others_keep_joining(stack: Stack) -> None:
    """A look-up gives way to those who come, but not for as long as they come."""
    first = asyncio.create_task(stack.log.append([event("first")]))
    others: list[asyncio.Task[list[Appended]]] = []
    while not first.done():
        assert len(others) < 5_000, "it waits for the last of them"
        others.append(asyncio.create_task(stack.log.append([event(f"u{len(others)}")])))
        await asyncio.sleep(0)
    await asyncio.gather(*others)
    assert await assert_log_holds(stack) == len(others) + 1


async def test_look_up_that_fails(stack: Stack) -> None:
    """All who share a look-up hear that it failed, and the next one is made anew."""
    async with holding(stack.url, "LOCK TABLE userlog.streams"):
        calls = [asyncio.create_task(stack.log.append([event(f"u{n}")])) for n in range(10)]
        await blocked(stack.admin)
        await stack.admin.execute(_KILL_LOOK_UPS)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in answers} == {UnavailableError}
    await stack.log.append([event(f"u{n}") for n in range(10)])
    assert await assert_log_holds(stack) == 10


async def test_erased_user(stack: Stack, open_stack: OpenStack) -> None:
    """Of an erased user nothing can be read any more, and what comes later is kept empty."""
    other = await open_stack(stack.url)
    await stack.log.append([event("gone", "1"), event("stays", "1")])
    await other.log.append([event("gone", "2")])
    await erase(stack, "gone")
    for log in (stack.log, other.log):  # both still have the old key at hand
        (later,) = await log.append([event("gone", "3")])
        assert later.position == Position(0, 4)
    read = await _everything(stack)
    assert [(e.stream.user_id, e.payload) for e in read] == [
        ("gone", None),
        ("stays", b"payload of 1"),
        ("gone", None),
        ("gone", None),
    ]
    assert await stack.pool.fetchval("SELECT payload FROM userlog.events WHERE position = 4") == b""
    assert await stack.log.is_erased(stack.log.stream(APP, "gone"))
    assert not await stack.log.is_erased(stack.log.stream(APP, "stays"))
    assert await assert_log_holds(stack) == 4


async def test_wrong_master_key(stack: Stack) -> None:
    """A log does not open with another master key than the one it was written with."""
    other = MasterKey(b"another master key of just 32 b.")
    await EventLog.open(stack.pool, other)  # nothing is written yet
    await stack.log.append([event()])
    with pytest.raises(WrongKeyError):
        await EventLog.open(stack.pool, other)


async def test_one_bad_event_fails_alone(stack: Stack) -> None:
    """An event that the database can't store fails its own call and no other of its batch."""
    await _prepare_keys(stack, "a", "nul\0", "b")
    async with holding(stack.url, HEADS):
        first = asyncio.create_task(stack.log.append([event("a", "first")]))
        await blocked(stack.admin)
        rest = asyncio.gather(
            *(stack.log.append([event(user)]) for user in ("a", "nul\0", "b")),
            return_exceptions=True,
        )
    await first
    before, bad, after = await rest
    assert isinstance(bad, asyncpg.DataError)
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert _outcomes(before + after) == [("appended", 2), ("appended", 3)]
    assert await assert_log_holds(stack) == 3


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (event("nul\0"), asyncpg.DataError),
        (event("lone \ud800 surrogate"), UnicodeEncodeError),
        (event(application_id="lone \ud800 surrogate"), UnicodeEncodeError),
    ],
    ids=["nul", "user", "application"],
)
async def test_bad_event_among_good(stack: Stack, bad: NewEvent, error: type[Exception]) -> None:
    """A call with an event that can't be stored fails, and its good events can be sent again."""
    good = [event("a"), event("b")]
    with pytest.raises(error):
        await stack.log.append([good[0], bad, good[1]])
    await stack.log.close()
    answers = await stack.log.append(good)
    assert [a.position.number for a in answers] == [1, 2]
    assert await assert_log_holds(stack) == 2


async def test_full_queue(stack: Stack) -> None:
    """A call that does not fit into the queue is refused as a whole, and others are not hurt."""
    limits = QueueLimits(queue_rows_max=3)
    log = await EventLog.open(stack.pool, MasterKey(b"a master key for tests only 32 b"), limits)
    async with holding(stack.url, HEADS):
        first = asyncio.create_task(log.append([event("a"), event("b")]))
        await blocked(stack.admin)
        with pytest.raises(QueueFullError):
            await log.append([event("c"), event("d")])
        last = asyncio.create_task(log.append([event("e")]))
    assert _outcomes(await first + await last) == [("appended", n) for n in (1, 2, 3)]
    assert log.queued == 0
    assert [e.stream.user_id for e in await _everything(stack)] == ["a", "b", "e"]


@pytest.mark.parametrize("limits", [{"batch_rows_max": 2}, {"batch_bytes_max": 100}])
async def test_batch_limits(stack: Stack, limits: dict[str, int]) -> None:
    """More than fits into one batch goes as several, in order."""
    key = MasterKey(b"a master key for tests only 32 b")
    log = await EventLog.open(stack.pool, key, QueueLimits(**limits))
    answers = await log.append([event(name=f"{n}") for n in range(7)])
    assert _outcomes(answers) == [("appended", n) for n in range(1, 8)]
    batches = "SELECT count(*) FROM userlog.events WHERE chain IS NOT NULL"
    assert await stack.pool.fetchval(batches) >= 4
    assert await assert_log_holds(stack) == 7


async def test_abandoned_call(stack: Stack) -> None:
    """A caller that goes away does not take back what it has handed over."""
    await _prepare_keys(stack, "u")
    async with holding(stack.url, HEADS):
        calls = [asyncio.create_task(stack.log.append([event(name=f"{n}")])) for n in range(3)]
        await blocked(stack.admin)
        for call in calls:
            call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    await stack.log.close()
    assert await assert_log_holds(stack) == 3


async def test_close_drains(stack: Stack) -> None:
    """Closing waits until everything handed over is in the log and answered."""
    await _prepare_keys(stack, "u")
    async with holding(stack.url, HEADS):
        calls = [asyncio.create_task(stack.log.append([event(name=f"{n}")])) for n in range(40)]
        await blocked(stack.admin)
        closing = asyncio.create_task(stack.log.close())
        await stack.pool.fetchval("SELECT 1")
        assert not closing.done()
    await closing
    assert await positions(stack.pool) == list(range(1, 41))
    assert [_outcomes(await call)[0][0] for call in calls] == ["appended"] * 40


async def test_killed_connection(stack: Stack) -> None:
    """An append whose connection dies before it commits is unavailable, and can be sent again."""
    async with holding(stack.url, HEADS) as admin:
        appending = asyncio.create_task(stack.log.append([event()]))
        await kill(admin, await blocked(admin))
        with pytest.raises(UnavailableError):
            await appending
    assert _outcomes(await stack.log.append([event()])) == [("appended", 1)]


async def test_answer_lost_after_commit(stack: Stack, open_stack: OpenStack) -> None:
    """An append that committed although its answer was lost is a duplicate when sent again."""
    async with proxied(stack.url) as proxy:
        behind = await open_stack(proxy.url)
        await behind.log.append([event("u", "0")])
        await _prepare_keys(behind, "new user")
        proxy.deaf = True
        appending = asyncio.create_task(behind.log.append([event("u"), event("new user")]))

        async def committed() -> bool:
            assert not appending.done()
            return len(await positions(stack.pool)) == 3

        await until(committed)
        proxy.cut()
        with pytest.raises(UnavailableError):
            await appending
        proxy.deaf = False
        proxy.restore()
        again = await behind.log.append([event("u"), event("new user")])
    assert _outcomes(again) == [("duplicate", 2), ("duplicate", 3)]
    assert await assert_log_holds(stack) == 3


@MANY
async def test_killed_connections_under_load(stack: Stack, open_stack: OpenStack) -> None:
    """With connections dying all the time, retries put each event in the log exactly once."""
    logs = [stack.log, (await open_stack(stack.url)).log]

    async def send(n: int) -> None:
        given = [event(f"u{n % 5}", f"{n} {i}") for i in range(5)]
        await retried(lambda: logs[n % 2].append(given), on=UnavailableError)

    async def send_all() -> int:
        sent = 0
        while sent < 200 or killed < 4:  # how many appends a batch takes is up to the machine
            await asyncio.gather(*(send(n) for n in range(sent, sent + 20)))
            sent += 20
        return sent

    killed, seen = 0, -1
    async with connected(stack.url) as admin, meanwhile(send_all()) as sending:
        while not sending.done():  # it gives up at last
            now = await admin.fetchval("SELECT sum(position) FROM userlog.log_head")
            if now > seen and (hit := await admin.fetchval(_KILL_APPENDS)):
                killed, seen = killed + hit, now  # the next one when something got through
    assert await assert_log_holds(stack) == await sending * 5


async def test_as_known_at(stack: Stack) -> None:
    """A user's events are read by when they were recorded, inclusively."""
    stream = stack.log.stream(APP, "u")
    for n in (1, 2):
        moment = f"2999-01-01T00:00:0{n}Z"
        await stack.admin.execute(f"UPDATE userlog.log_head SET recorded_at = '{moment}'")
        await stack.log.append([event(name=f"{n}", occurred_at=T0 + timedelta(hours=-n))])
    first, second = await _everything(stack)
    step = timedelta(milliseconds=1)

    async def known(known_at: datetime) -> list[int]:
        rows = await stack.log.rows_of_stream(stream, known_at)
        return [row["position"] for row in rows]

    assert await known(second.recorded_at) == [1, 2]
    assert await known(second.recorded_at - step) == [1]
    assert await known(first.recorded_at - step) == []


async def test_a_clock_that_runs_ahead(stack: Stack) -> None:
    """More than five minutes ahead of its recording, an event counts as occurring then."""
    now = datetime(2999, 1, 1, tzinfo=UTC)
    await stack.admin.execute("UPDATE userlog.log_head SET recorded_at = $1", now)
    step = timedelta(milliseconds=1)
    stated = [
        now,
        now + CLOCK_AHEAD_MAX,
        now + CLOCK_AHEAD_MAX + step,
        datetime(9999, 12, 31, tzinfo=UTC),
    ]
    named = [event(name=f"{n}", occurred_at=at) for n, at in enumerate(stated)]
    await stack.log.append(named)
    found = await _everything(stack)
    assert [one.recorded_at for one in found] == [now] * 4
    assert [one.occurred_at for one in found] == [now, now + CLOCK_AHEAD_MAX, now, now]
    await assert_log_holds(stack)


async def test_events_of_a_minute_stand_together(stack: Stack) -> None:
    """In their index, if their time is part of their identity: whoever's they are."""
    second, minute = timedelta(seconds=1), timedelta(minutes=1)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    times = [T0 + minute, last, T0 - minute, T0, first, T0 + second, T0 + 4_000_000 * minute]
    dated = [event(f"u{n}", f"{n}", occurred_at=at, dated=True) for n, at in enumerate(times)]
    await stack.log.append(dated)
    rows = await stack.pool.fetch("SELECT identity FROM userlog.events ORDER BY position")
    minutes = [int.from_bytes(row["identity"][:4]) for row in rows]
    assert minutes[3] == minutes[5]
    in_order = sorted(range(len(times)), key=lambda n: (minutes[n], times[n]))
    assert in_order == sorted(range(len(times)), key=times.__getitem__)
    assert len(set(minutes)) == len(times) - 1
    assert [minutes[0], minutes[2]] == [minutes[3] + 1, minutes[3] - 1]
    again = await stack.log.append(dated)
    assert {answer.outcome for answer in again} == {Outcome.DUPLICATE}


async def test_keys_at_hand(stack: Stack) -> None:
    """The users' keys that were used last are kept as they are, others packed, and the rest not."""
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY), KeyringLimits(recent=2, compact=16))
    streams = [stack.log.stream(APP, f"{n}") for n in range(20)]
    await stack.log.append([event(f"{n}", f"event of {n}") for n in range(20)])
    made = [(await keyring.find_or_make([stream]))[0] for stream in streams]
    assert keyring.cached(streams[:1]) is None
    assert keyring.cached(streams[1:3]) is None
    for stream, key in [*zip(streams, made, strict=True)][2:]:
        assert keyring.cached([stream]) == [key]
    assert keyring.cached(streams[2:]) == made[2:]
    keyring.forget(streams[2].stream_id.bytes)
    keyring.forget(streams[19].stream_id.bytes)
    assert keyring.cached([streams[2]]) is None
    assert keyring.cached([streams[19]]) is None


async def test_a_key_that_is_not_in_the_log_yet(stack: Stack) -> None:
    """Nobody else has it: where there is no room for it, another one is made."""
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY), KeyringLimits(recent=1, compact=16))
    first, second = stack.log.stream(APP, "1"), stack.log.stream(APP, "2")
    made = await keyring.find_or_make([first])
    assert await keyring.find_or_make([first]) == made
    await keyring.find_or_make([second])
    assert keyring.cached([first]) is None
    assert await keyring.find_or_make([first]) != made


async def test_an_erased_users_key_is_not_packed(stack: Stack) -> None:
    """It opens nothing; who meets the user again learns from the log that they are erased."""
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY), KeyringLimits(recent=1, compact=16))
    erased, other = stack.log.stream(APP, "erased"), stack.log.stream(APP, "other")
    await stack.log.append([event("erased", "1"), event("other", "2")])
    await stack.log.erase(erased, BY)
    for _ in range(2):
        (found,) = await keyring.find_or_make([erased])
        assert found.erased
        assert not (await keyring.find_or_make([other]))[0].erased
        assert keyring.cached([erased]) is None
