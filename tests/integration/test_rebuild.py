from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore.errors import UnavailableError
from eventstore.events import Position
from projections.poison import PoisonError
from projections.projector import Projector, catch_up
from projections.read_model import Page
from projections.rebuild import RebuildRunningError, rebuild
from tests.integration.support import (
    APP,
    PATIENCE_S,
    blocked,
    connected,
    delivery,
    erase,
    event,
    holding,
    kill,
    tables,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack

    OpenStack = Callable[[str], Awaitable[Stack]]


@pytest.fixture
def open_stack(open_stack: Callable[..., Awaitable[Stack]]) -> OpenStack:
    """A rebuild makes and drops tables, so it works as their owner."""
    return partial(open_stack, owner=True)


MANY = pytest.mark.parametrize("partitions", [1, 4], indirect=True, ids="{}-partitions".format)
CHECKPOINTS = "SELECT 1 FROM userlog.checkpoints WHERE generation = 1 FOR UPDATE"


def _quiet(_done: int, _total: int) -> None:
    return


async def _fill(stack: Stack, users: int = 20, events: int = 5) -> None:
    bodies = [
        delivery(f"u{user}", at_ms=n * 37 % 11, count=n, first_name=f"{n}")
        for n in range(events)
        for user in range(users)
    ]
    await asyncio.gather(*(stack.ingest.deliver(body) for body in bodies))
    await catch_up(stack.log, 100)


async def _damage(stack: Stack) -> None:
    await stack.admin.execute("UPDATE userlog.users SET state = '{}', lifecycle = 'blocked'")
    await stack.admin.execute("UPDATE userlog.history SET changes = '[]'")


async def _generations(stack: Stack) -> list[str]:
    """Name everything that belongs to a generation."""
    found = await stack.pool.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'userlog'::regnamespace"
        " AND relkind = 'r' AND relname ~ '_g[0-9]+$'"
        " UNION SELECT DISTINCT 'checkpoints ' || generation FROM userlog.checkpoints"
        " UNION SELECT state || ' ' || generation FROM userlog.generations"
        " UNION SELECT 'active ' || active_generation FROM userlog.projections ORDER BY 1"
    )
    return [row["relname"] for row in found]


def _only(number: int) -> list[str]:
    names = (
        "active {}",
        "activity_g{}",
        "checkpoints {}",
        "history_g{}",
        "live {}",
        "terms_g{}",
        "users_g{}",
    )
    return [name.format(number) for name in names]


@MANY
async def test_repairs(stack: Stack) -> None:
    """A rebuild makes the same rows again, whatever was damaged, and leaves nothing behind."""
    await _fill(stack)
    before = await tables(stack.pool)
    await _damage(stack)
    await stack.admin.execute("DELETE FROM userlog.history WHERE position % 2 = 0")
    told: list[tuple[int, int]] = []
    number = await rebuild(stack.log, batch_max=7, progress=lambda *so_far: told.append(so_far))
    assert await tables(stack.pool) == before
    assert await _generations(stack) == _only(number)
    assert told == sorted(told)
    assert told[-1] == (100, 100)
    assert await rebuild(stack.log, batch_max=1000, progress=_quiet) == number + 1
    assert await tables(stack.pool) == before


async def test_empty(stack: Stack) -> None:
    """An empty log can be rebuilt."""
    number = await rebuild(stack.log, batch_max=10, progress=_quiet)
    assert not any(await tables(stack.pool))
    assert await _generations(stack) == _only(number)


@MANY
async def test_answers_all_the_time(stack: Stack, open_stack: OpenStack) -> None:
    """While rebuilds run, reads find every user, none goes back in time, and appends go on."""
    writer, reader = await open_stack(stack.url), await open_stack(stack.url)
    await _fill(stack)
    projector = Projector(writer.log, batch_max=10, poll_s=0.02)
    projector.start()
    streams = [stack.log.stream(APP, f"u{n}") for n in range(20)]
    newest = dict.fromkeys(streams, 0)
    done = asyncio.Event()
    rounds = 0

    async def read() -> None:
        nonlocal rounds
        while not done.is_set():
            for stream in streams:
                found = await reader.read_model.user(stream)
                history = await reader.read_model.history(stream, page=Page("desc", 3))
                assert found
                assert len(history.entries) == 3
                count = msgspec.json.decode(found.state)["extra"]["count"]
                assert count >= newest[stream]
                newest[stream] = count
            rounds += 1

    async def write() -> int:
        count = 5
        while not done.is_set():
            for n in range(20):
                body = delivery(f"u{n}", at_ms=100 + count, count=count)
                assert (await writer.ingest.deliver(body)).accepted == 1
            count += 1
        return count

    reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
    for expected in range(2, 6):
        seen = rounds
        while rounds < seen + 2 and not reading.done():
            await stack.pool.fetchval("SELECT 1")
        assert await rebuild(stack.log, batch_max=50, progress=_quiet) == expected
    done.set()
    await reading
    count = await writing
    for head in await stack.log.heads():
        await reader.read_model.wait_for(head.position, PATIENCE_S)
    await projector.stop()
    assert count > 6
    assert await _generations(stack) == _only(5)
    rows = await tables(stack.pool)
    assert len(rows[1]) == 20 * count
    await rebuild(stack.log, batch_max=1000, progress=_quiet)
    assert await tables(stack.pool) == rows


async def test_one_at_a_time(stack: Stack, open_stack: OpenStack) -> None:
    """A second rebuild is refused while one runs, and may run when it has ended."""
    await _fill(stack)
    other = await open_stack(stack.url)
    async with holding(stack.url, CHECKPOINTS):
        first = asyncio.create_task(rebuild(stack.log, batch_max=100, progress=_quiet))
        await blocked(other.admin)
        with pytest.raises(RebuildRunningError, match="another rebuild"):
            await rebuild(other.log, batch_max=100, progress=_quiet)
    assert await first == 2
    assert await rebuild(other.log, batch_max=100, progress=_quiet) == 3


async def test_killed_before_flip(stack: Stack) -> None:
    """A rebuild that dies changes no answer, and the next one removes what it left."""
    await _fill(stack)
    before = await tables(stack.pool)
    async with holding(stack.url, CHECKPOINTS) as admin:
        dying = asyncio.create_task(rebuild(stack.log, batch_max=100, progress=_quiet))
        await kill(admin, await blocked(admin))
        with pytest.raises(UnavailableError):
            await dying
    assert "building 2" in await _generations(stack)
    assert await tables(stack.pool) == before
    await catch_up(stack.log, 10)
    number = await rebuild(stack.log, batch_max=100, progress=_quiet)
    assert await tables(stack.pool) == before
    assert await _generations(stack) == _only(number)


@pytest.mark.parametrize("times", [1, 2])
async def test_killed_after_flip(stack: Stack, times: int) -> None:
    """A rebuild that dies while it removes the old tables does not stand in the next one's way."""
    await _fill(stack)
    before = await tables(stack.pool)
    async with connected(stack.url) as reader:
        for _ in range(times):
            async with reader.transaction():  # a long look at the old generation
                await reader.fetch("SELECT count(*) FROM userlog.users")
                await reader.fetch("SELECT count(*) FROM userlog.history")
                dying = asyncio.create_task(rebuild(stack.log, batch_max=100, progress=_quiet))
                await kill(reader, await blocked(reader))
                with pytest.raises(UnavailableError):
                    await dying
    assert await tables(stack.pool) == before
    number = await rebuild(stack.log, batch_max=100, progress=_quiet)
    assert await tables(stack.pool) == before
    assert await _generations(stack) == _only(number)


async def test_long_reader(stack: Stack) -> None:
    """A transaction that reads for long delays only the removal of what it reads."""
    await _fill(stack)
    stream = stack.log.stream(APP, "u1")
    async with connected(stack.url) as reader:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM userlog.users, userlog.history")
            building = asyncio.create_task(rebuild(stack.log, batch_max=100, progress=_quiet))
            await blocked(reader)
            assert "active 2" in await _generations(stack)
            assert await stack.read_model.user(stream)
            await stack.ingest.deliver(delivery("new"))
            assert await catch_up(stack.log, 10) == 1
        assert await building == 2
    assert await _generations(stack) == _only(2)


async def test_erased_user(stack: Stack) -> None:
    """A rebuild leaves out an erased user, even one whose events are all from before."""
    await _fill(stack)
    await erase(stack, "u3")
    await rebuild(stack.log, batch_max=7, progress=_quiet)
    assert await stack.read_model.user(stack.log.stream(APP, "u3")) is None
    users, history, *_ = await tables(stack.pool)
    assert (len(users), len(history)) == (19, 95)


async def test_poison_stops(stack: Stack) -> None:
    """An event that can't be read stops a rebuild by name; the old generation goes on answering."""
    await _fill(stack)
    before = await tables(stack.pool)
    await stack.log.append([event("v", payload=b"not a delivery")])
    with pytest.raises(PoisonError, match="0:101"):
        await rebuild(stack.log, batch_max=7, progress=_quiet)
    assert await tables(stack.pool) == before
    (lag,) = [lag for lag in await stack.read_model.lags() if lag.active]
    assert (lag.generation, lag.position, lag.head) == (1, 100, 101)


async def test_appends_during_fill(stack: Stack) -> None:
    """What is appended while the new generation is filled is in it when it answers."""
    await _fill(stack)
    async with holding(stack.url, CHECKPOINTS):
        building = asyncio.create_task(rebuild(stack.log, batch_max=100, progress=_quiet))
        await blocked(stack.admin)
        receipt = await stack.ingest.deliver(delivery("new", first_name="N"))
    await building
    await catch_up(stack.log, 10)
    await stack.read_model.wait_for(Position.parse(receipt.positions[0]), 0)
    assert await stack.read_model.user(stack.log.stream(APP, "new"))
