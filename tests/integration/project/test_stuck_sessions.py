"""A projector that freezes while it holds a partition, and the one that takes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.errors import UnavailableError, database_errors
from eventstore.events import Position
from projections.project.projector import catch_up
from projections.project.stuck_sessions import end_stuck_sessions
from tests.support.database import begin_again, blocked, holding, tables
from tests.support.deliveries import delivery
from tests.support.processes import Home, configured
from tests.support.server import as_service
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Stack
    from tests.support.nursery import Forked, Nursery

    OpenStack = Callable[..., Awaitable[Stack]]

AFTER_S = 0.5
EVENTS = 300
YOUNG = """
SELECT state_change > clock_timestamp() - make_interval(secs => $2)
FROM pg_stat_activity WHERE pid = $1
"""


@pytest.fixture
def home(stack: Stack, tmp_path: Path, nursery: Nursery) -> Home:
    """A userlog on the database of the stack."""
    return Home(tmp_path / "data", configured(as_service(stack.url)), nursery=nursery)


@contextlib.asynccontextmanager
async def _projecting(home: Home) -> AsyncGenerator[Forked | asyncio.subprocess.Process]:
    """Run `userlog project` in a process of its own; in the end it must stop as it is told to."""
    there = home.where(
        USERLOG_TAKEOVER_TIMEOUT_S=str(AFTER_S),
        USERLOG_PROJECTOR_POLL_S="0.02",
        USERLOG_PROJECTOR_BATCH_ROWS_MAX=str(2 * EVENTS),
        USERLOG_SCRUB_INTERVAL_S="0",  # it would be blocked as well, and taken for the projector
    )
    with home.folder.with_suffix(".log").open("wb") as lines:
        process = await there._begin("project", stderr=lines)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_transaction_left_open(stack: Stack, open_stack: OpenStack) -> None:
    """The server itself ends a transaction that waits for its client, even if nobody else is there.

    Whoever wakes up then is told that the database is not available.
    """
    frozen = await open_stack(stack.url, takeover_s=AFTER_S)
    async with frozen.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM userlog.checkpoints FOR UPDATE")
        assert await catch_up(stack.log, 10) == 0
        async with asyncio.timeout(PATIENCE_S):
            await stack.admin.execute("SELECT FROM userlog.checkpoints FOR UPDATE")
        with pytest.raises(UnavailableError), database_errors():
            await connection.execute("SELECT 1")


async def test_the_end_is_not_a_defect() -> None:
    """That the server has ended a session for being idle passes like any lost connection."""
    with pytest.raises(UnavailableError), database_errors():
        raise asyncpg.IdleInTransactionSessionTimeoutError


async def test_who_is_only_slow_is_left_alone(stack: Stack, open_stack: OpenStack) -> None:
    """A projector that waits for the database is not frozen, however long it takes."""
    slow = await open_stack(stack.url, takeover_s=AFTER_S)
    await stack.ingest.deliver(delivery())
    async with holding(stack.url, "LOCK TABLE userlog.history IN EXCLUSIVE MODE") as admin:
        projecting = asyncio.create_task(catch_up(slow.log, 10))
        (pid,) = await blocked(admin)

        async def waited() -> bool:
            return not await stack.admin.fetchval(YOUNG, pid, 2 * AFTER_S)

        await until(waited)
        assert await end_stuck_sessions(slow.log) == 0
    assert await projecting == 1


async def _catch_up_in_time(other: Stack) -> int:
    """Project; 0 if this machine is so busy that its own session was taken for a frozen one."""
    with contextlib.suppress(UnavailableError):
        return await catch_up(other.log, 1_000)
    return 0


STAGES = {
    "reading": "LOCK TABLE userlog.events IN ACCESS EXCLUSIVE MODE",
    "writing": "LOCK TABLE userlog.history IN EXCLUSIVE MODE",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("warm", [False, True], ids=["first-batch", "later-batch"])
async def test_a_frozen_projector(
    stack: Stack, open_stack: OpenStack, home: Home, stage: str, warm: bool
) -> None:
    """What it holds is taken from it after the time that is set, and it goes on when it wakes.

    It freezes while the batch that it reads is on its way, more than a socket holds, or while it
    writes; the first time a statement is prepared there is one more step at which it can.
    """
    other = await open_stack(stack.url, takeover_s=AFTER_S)
    await stack.ingest.deliver(delivery("u", at_ms=-1))
    async with (
        _projecting(home) as frozen,
        contextlib.AsyncExitStack() as until_frozen,
    ):
        if warm:
            await stack.read_model.wait_for(Position(0, 1), PATIENCE_S)
        async with holding(stack.url, "SELECT FROM userlog.checkpoints FOR UPDATE"):
            for n in range(EVENTS):
                body = delivery(f"u{n % 9}", at_ms=n % 50, name=os.urandom(1_000).hex())
                await stack.ingest.deliver(body)
            admin = await until_frozen.enter_async_context(holding(stack.url, STAGES[stage]))
        await blocked(admin)
        frozen.send_signal(signal.SIGSTOP)
        await until_frozen.aclose()
        await until(lambda: _catch_up_in_time(other))
        await stack.read_model.wait_for(Position(0, EVENTS + 1), 0)
        frozen.send_signal(signal.SIGCONT)
        await stack.ingest.deliver(delivery("after"))
        await stack.read_model.wait_for(Position(0, EVENTS + 2), PATIENCE_S)
    said = home.folder.with_suffix(".log").read_text()
    assert "waits for the database" in said
    assert "stands still" not in said
    found = await tables(stack.pool)
    await begin_again(stack)
    await catch_up(stack.log, 1_000)
    assert await tables(stack.pool) == found
