from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
import phonenumbers
import pytest

from eventstore import read
from eventstore.errors import UnavailableError
from eventstore.events import Position
from projections.fold import timeslice
from projections.project.projector import Projector, catch_up, project_batch
from projections.prove.differences import Differences
from projections.prove.proof import prove
from projections.prove.ranges import Range
from projections.prove.scrubber import scrub
from projections.query.lag import lags
from projections.tables import Generation
from tests.support.database import begin_again, blocked, erase, holding, kill, tables
from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES, delivery
from tests.support.parameters import MANY
from tests.support.proxy import proxied
from tests.support.waiting import PATIENCE_S, meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from eventstore.events import RecordedEvent
    from tests.conftest import Stack
    from tests.support.lines import Lines

    OpenStack = Callable[[str], Awaitable[Stack]]
    Follow = Callable[[Stack], Projector]


@pytest.fixture
async def follow() -> AsyncIterator[Follow]:
    """Start projectors that follow a log; stopped after the test."""
    running: list[Projector] = []

    def start(stack: Stack) -> Projector:
        projector = Projector(stack.log, batch_max=10, poll_s=0.02)
        projector.start()
        running.append(projector)
        return projector

    yield start
    for projector in running:
        await projector.stop()


async def _deliver(stack: Stack, *bodies: bytes) -> None:
    for body in bodies:
        receipt = await stack.ingest.deliver(body)
        assert not receipt.quarantined


async def _user(stack: Stack, user_id: str) -> tuple[str, Any] | None:
    found = await stack.read_model.user(stack.log.stream(APP, user_id))
    return (found.lifecycle, bytes(found.state)) if found else None


async def test_samples_in_any_order(stack: Stack) -> None:
    """The samples, which share one moment, end alike whatever order and batches they come in."""
    users = [f"{n:024}" for n in range(6)]
    for user, order in zip(users, itertools.permutations(SAMPLES), strict=True):
        for body in order:
            await _deliver(stack, body.replace(SAMPLE_USER.encode(), user.encode()))
            if user < users[3]:
                await catch_up(stack.log, 10)
    await catch_up(stack.log, 10)
    states = {await _user(stack, user) for user in users}
    assert len(states) == 1
    ((lifecycle, _),) = [state for state in states if state]
    assert lifecycle == "deleted"
    for user in users:
        history = await stack.read_model.history(stack.log.stream(APP, user))
        kinds = [(entry.event_type, entry.summary[0]) for entry in history.entries]
        assert kinds == [
            ("user.created", "created"),
            ("user.updated", "nothing changed"),
            ("user.deleted", "deleted"),
        ]


async def test_late_event(stack: Stack) -> None:
    """An event that comes late is folded in at its place, and the history says so."""
    await _deliver(stack, delivery(kind="create", at_ms=1, first_name="A", gender="x"))
    await _deliver(stack, delivery(at_ms=3, first_name="C"))
    await catch_up(stack.log, 10)
    await _deliver(stack, delivery(at_ms=2, first_name="B", gender="y"))
    await catch_up(stack.log, 10)
    assert await _user(stack, "u") == ("active", b'{"first_name":"C","gender":"y"}')
    found = (await stack.read_model.history(stack.log.stream(APP, "u"))).entries
    assert [(e.position, e.late) for e in found] == [("0:1", False), ("0:3", True), ("0:2", False)]
    steps = [{c.field: (c.old, c.new) for c in e.changes} for e in found]
    assert steps[1:] == [
        {"first_name": ("A", "B"), "gender": ("x", "y")},
        {"first_name": ("B", "C")},
    ]


async def test_batches_do_not_matter(stack: Stack) -> None:
    """Whatever the size of the batches, the tables come out equal to the last byte."""
    bodies = [
        delivery(f"u{n % 5}", at_ms=n * 7919 % 101, first_name=f"{n}", extra={f"f{n % 4}": n})
        for n in range(60)
    ]
    await _deliver(stack, *bodies, *SAMPLES)
    found: list[Any] = []
    for batch_max in (1, 2, 7, 1000):
        await begin_again(stack)
        assert await catch_up(stack.log, batch_max) == 63
        found.append(await tables(stack.pool))
    assert len(found[0][0]) == 6
    assert len(found[0][1]) == 63
    assert found == [found[0]] * 4


@MANY
async def test_two_projectors(stack: Stack, open_stack: OpenStack) -> None:
    """Each event is projected once, however many projectors run."""
    other = await open_stack(stack.url)
    for n in range(120):
        await _deliver(stack, delivery(f"u{n % 11}", at_ms=n, first_name=f"{n}"))
    logs = [stack.log, other.log] * 3
    done = 0

    async def all_done() -> bool:
        nonlocal done
        done += sum(await asyncio.gather(*(catch_up(log, 3) for log in logs)))
        return done >= 120

    await until(all_done)
    assert done == 120
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.history") == 120
    found = await tables(stack.pool)
    await begin_again(stack)
    await catch_up(stack.log, 1000)
    assert found == await tables(stack.pool)


async def test_held_checkpoint(stack: Stack) -> None:
    """A projector leaves a partition to whoever holds its checkpoint."""
    await _deliver(stack, delivery())
    async with holding(stack.url, "SELECT 1 FROM userlog.checkpoints FOR UPDATE"):
        assert await project_batch(stack.log, Generation(0, 1), 10) is None
        assert await catch_up(stack.log, 10) == 0
    assert await catch_up(stack.log, 10) == 1


async def test_killed_batch_leaves_nothing(stack: Stack) -> None:
    """A batch whose connection dies halfway leaves neither rows nor checkpoint."""
    await _deliver(stack, *SAMPLES)
    async with holding(stack.url, "LOCK TABLE userlog.history IN EXCLUSIVE MODE") as admin:
        projecting = asyncio.create_task(catch_up(stack.log, 10))
        await kill(admin, await blocked(admin))
        with pytest.raises(UnavailableError):
            await projecting
    assert not any(await tables(stack.pool))
    assert await stack.pool.fetchval("SELECT position FROM userlog.checkpoints") == 0
    assert await catch_up(stack.log, 10) == 3


async def test_erased_user_disappears(stack: Stack) -> None:
    """The first event after an erasure removes the user from the read models, and none returns."""
    await _deliver(stack, delivery("gone", "create"), delivery("stays", "create"))
    await catch_up(stack.log, 10)
    await erase(stack, "gone")
    for n in (1, 2):
        await _deliver(stack, delivery("gone", at_ms=n, first_name="back"))
        await catch_up(stack.log, 10)
        assert await _user(stack, "gone") is None
        assert (await stack.read_model.history(stack.log.stream(APP, "gone"))).entries == []
    assert await _user(stack, "stays")
    await begin_again(stack)
    await catch_up(stack.log, 10)
    assert await _user(stack, "gone") is None


async def test_each_trouble_is_said(
    stack: Stack, open_stack: OpenStack, lines: Lines, follow: Follow
) -> None:
    """A projector says what is wrong once, and again when something else is."""
    await _deliver(stack, delivery(at_ms=1))
    async with proxied(stack.url) as proxy:
        behind = await open_stack(proxy.url)
        proxy.cut()
        follow(behind)
        await lines.until("projector waits for the database")
        await stack.admin.execute("ALTER TABLE userlog.history RENAME TO renamed")
        proxy.restore()
        await lines.until("projector stands still")
        await stack.admin.execute("ALTER TABLE userlog.renamed RENAME TO history")
        await stack.read_model.wait_for(Position(0, 1), PATIENCE_S)


async def test_defect_is_said(stack: Stack, lines: Lines, follow: Follow) -> None:
    """What nobody foresaw does not end the projector in silence either."""
    await _deliver(stack, delivery(at_ms=1))
    await stack.admin.execute("ALTER TABLE userlog.history RENAME TO renamed")
    follow(stack)
    await lines.until("projector stands still")
    await stack.admin.execute("ALTER TABLE userlog.renamed RENAME TO history")
    await stack.read_model.wait_for(Position(0, 1), PATIENCE_S)


@pytest.mark.parametrize("partitions", [4], indirect=True)
async def test_other_partitions_go_on(stack: Stack) -> None:
    """A partition whose rows can't be written stands still, and no other does."""
    for n in range(40):
        await _deliver(stack, delivery(f"u{n}"))
    await stack.admin.execute("ALTER TABLE userlog.users ADD CHECK (partition <> 0)")
    with pytest.raises(asyncpg.CheckViolationError):
        await catch_up(stack.log, 3)
    heads = [head.position.number for head in await stack.log.heads()]
    found = [lag.position for lag in await lags(stack.pool)]
    assert found == [0, *heads[1:]]


async def test_lifecycle(stack: Stack) -> None:
    """Starting and stopping twice is starting and stopping once, and stopping needs no start."""
    projector = Projector(stack.log, batch_max=10, poll_s=3_600)
    await projector.stop()
    stack.log.observers.append(lambda _events, _seconds: projector.wake())
    for n in range(2):
        before = asyncio.all_tasks()
        projector.start()
        projector.start()
        (started,) = asyncio.all_tasks() - before
        receipt = await stack.ingest.deliver(delivery(at_ms=n))
        await stack.read_model.wait_for(Position.parse(receipt.positions[0]), PATIENCE_S)
        await projector.stop()
        assert started.done()
        await projector.stop()
    await _deliver(stack, delivery(at_ms=2))
    (lag,) = await lags(stack.pool)
    assert (lag.position, lag.head) == (2, 3), "it follows on"


async def test_stop_while_database_goes(stack: Stack, open_stack: OpenStack) -> None:
    """A projector stops even when its connections break at that moment."""
    async with proxied(stack.url) as proxy:
        behind = await open_stack(proxy.url)
        for n in range(60):
            projector = Projector(behind.log, batch_max=10, poll_s=0.002)
            projector.start()
            for _ in range(n % 30):
                await stack.pool.fetchval("SELECT 1")
            proxy.cut()
            async with asyncio.timeout(PATIENCE_S):
                await projector.stop()
            proxy.restore()


async def test_append_wakes(stack: Stack) -> None:
    """An append in the same process is projected at once, not at the next look."""
    projector = Projector(stack.log, batch_max=10, poll_s=3_600)
    stack.log.observers.append(lambda _events, _seconds: projector.wake())
    projector.start()
    for n in range(3):
        receipt = await stack.ingest.deliver(delivery(at_ms=n))
        await stack.read_model.wait_for(Position.parse(receipt.positions[0]), PATIENCE_S)
    await projector.stop()


async def test_append_elsewhere_is_found(
    stack: Stack, open_stack: OpenStack, follow: Follow
) -> None:
    """An append in another process, which wakes nobody here, is found by looking."""
    follow(stack)
    other = await open_stack(stack.url)
    await _deliver(other, delivery())
    await stack.read_model.wait_for(Position(0, 1), PATIENCE_S)


async def test_running_projectors_converge(
    stack: Stack, open_stack: OpenStack, follow: Follow
) -> None:
    """Projectors that run while events come in any order leave what one batch would leave."""
    other = await open_stack(stack.url)
    follow(stack)
    follow(other)
    bodies = [delivery(f"u{n % 6}", at_ms=n * 37 % 97, first_name=f"{n}") for n in range(90)]
    await asyncio.gather(*(_deliver((stack, other)[n % 2], b) for n, b in enumerate(bodies)))
    await stack.read_model.wait_for(Position(0, 90), PATIENCE_S)
    found = await tables(stack.pool)
    await begin_again(stack)
    await stack.read_model.wait_for(Position(0, 90), PATIENCE_S)
    assert found == await tables(stack.pool)
    assert any(row["late"] for row in await stack.pool.fetch("SELECT late FROM userlog.history"))


@pytest.mark.parametrize("page", [1, 2, 3, 5])
async def test_a_user_on_several_pages(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """What is read page by page comes user by user, wherever a page ends."""
    monkeypatch.setattr(read, "_PAGE_ROWS", page)
    for user in range(7):
        for n in range(user):
            await stack.ingest.deliver(delivery(f"u{user}", at_ms=n, first_name=f"{n}"))
    await catch_up(stack.log, 100)
    found = Differences()
    for partition in range(stack.log.partitions):
        found.join(await scrub(stack.log, partition, uuid.UUID(int=0)))
    assert (found.users, found.differing) == (6, 0)


async def test_scrubbing_rests(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves others most of the time, however long a user's history is."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * timeslice.SLICE_S / 4)
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(timeslice, "time", clock)
    monkeypatch.setattr(timeslice, "asyncio", SimpleNamespace(sleep=sleep))
    await stack.ingest.deliver(delivery("u", first_name="0"))
    await asyncio.gather(
        *(stack.ingest.deliver(delivery("u", at_ms=n, first_name=f"{n}")) for n in range(1, 100))
    )
    await catch_up(stack.log, 1_000)
    rests.clear()
    found = await scrub(stack.log, 0, uuid.UUID(int=0))
    assert (found.users, found.differing) == (1, 0)
    assert len(rests) > 100 / 4
    assert min(rests) == 4 * timeslice.SLICE_S


async def test_folding_holds_up_no_request(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits gets a turn after every few events, of one user or many, whatever folds."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * timeslice.SLICE_S / 4)
    monkeypatch.setattr(timeslice, "time", clock)
    await asyncio.gather(
        *(stack.ingest.deliver(delivery("u", at_ms=n, first_name=f"{n}")) for n in range(100)),
        *(stack.ingest.deliver(delivery(f"u{n}")) for n in range(100)),
    )
    folded = 0
    runs: list[int] = []
    open_event = read.open_event

    def counted(*args: Any) -> RecordedEvent:
        nonlocal folded
        folded += 1
        return open_event(*args)

    async def wait() -> None:
        nonlocal folded
        while True:
            await asyncio.sleep(0)
            runs.append(folded)
            folded = 0

    monkeypatch.setattr(read, "open_event", counted)
    async with meanwhile(wait()), asyncio.timeout(PATIENCE_S):
        assert await catch_up(stack.log, 1_000) == 200
        await stack.ingest.deliver(delivery("u", at_ms=-1, first_name="late"))
        assert await catch_up(stack.log, 1_000) == 1
        found = await prove(stack.log, Range(0, uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1)))
        assert (found.users, found.differing) == (101, 0)
        await stack.read_model.history(stack.log.stream(APP, "u"), datetime.now(UTC))
    assert sum(runs) > 600
    assert max(runs) <= 5


async def test_many_phones_are_read_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list that has a phone twice each change is the whole list; no request waits for that."""
    read_phone, count = phonenumbers.parse, itertools.count()

    def parse(*args: Any) -> phonenumbers.PhoneNumber:
        next(count)
        return read_phone(*args)

    monkeypatch.setattr(phonenumbers, "parse", parse)
    phones = [{"phone": f"98450{n:05}", "country_code": 91} for n in range(100)]
    for n in range(20):
        changed = {"phone": f"98451{n:05}", "country_code": 91}
        await _deliver(stack, delivery(at_ms=n, phone_numbers=[*phones, phones[0], changed]))
    await catch_up(stack.log, 100)
    assert next(count) <= 120
