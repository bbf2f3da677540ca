"""A real PostgreSQL for every test: the embedded one, or USERLOG_TEST_DATABASE_URL."""

from __future__ import annotations

import gc
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest

from api.webhook.ingest import Ingest
from eventstore.log import EventLog
from eventstore.postgres.pool import TAKEOVER_S, open_owner_pool, open_pool
from eventstore.quarantine import Quarantine
from eventstore.sealing.keys import MasterKey
from projections.query.users import ReadModel
from projections.rebuild.log_source import LogSource
from tests.support.nursery import running_nursery
from tests.support.server import as_service, running_server, use_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from eventstore.postgres.pool import Pool
    from tests.support.nursery import Nursery
    from tests.support.server import Server

MASTER_KEY = b"a master key for tests only 32 b"
_UNGUARDED = {"session_replication_role": "replica", "search_path": "userlog, pg_catalog"}
# So long a test that has timed out may take to clean up.
_AGAIN_S = 10
# So many new objects make it worth looking for garbage, as in the service.
_GARBAGE = 10_000


def pytest_configure() -> None:
    """Before anything is started: say where temporary files lie, and let Ctrl-C be heard.

    A shell lets what it runs in the background ignore Ctrl-C, and that is inherited.
    """
    use_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let some tests go on for longer."""
    parser.addoption("--matrix", action="store_true", help="try every kind of database")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for no garbage among what is imported: a fifth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Let garbage be looked for among what tests make, not among all that was imported for them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    """Let the signal come again until it ends the test: a loop swallows it between two tasks."""
    answer = yield
    if settings.method == "signal":
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, _AGAIN_S)
    return answer


class Stack(NamedTuple):
    """An open userlog on a database of its own.

    `pool` is the service's, with the rights of the service; `admin` may do everything, and the
    log's guards are off there.
    """

    url: str
    pool: Pool
    admin: Pool
    log: EventLog
    quarantine: Quarantine
    ingest: Ingest
    read_model: ReadModel

    @property
    def source(self) -> LogSource:
        """How a rebuild opens the same log."""
        return LogSource(self.url, MASTER_KEY, None, 30)

    @classmethod
    async def open(cls, url: str, *, owner: bool = False, takeover_s: float = TAKEOVER_S) -> Stack:
        """Open a userlog as a process of its own would."""
        if owner:
            pool = await open_owner_pool(url, size=5, timeout_s=30)
        else:
            pool = await open_pool(as_service(url), size=5, timeout_s=30, takeover_s=takeover_s)
        admin = await asyncpg.create_pool(url, min_size=0, max_size=2, server_settings=_UNGUARDED)
        key = MasterKey(MASTER_KEY)
        log = await EventLog.open(pool, key)
        quarantine = Quarantine(pool, log.partitions, log.own_keys)
        return cls(url, pool, admin, log, quarantine, Ingest(log, quarantine), ReadModel(log, pool))

    async def close(self) -> None:
        """Close it."""
        await self.log.close()
        await self.pool.close()
        await self.admin.close()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of the test's own, as always, but not in pytest's.

    Every run of pytest closes that one to other accounts, while PostgreSQL's has to pass through.
    """
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[Server]:
    """The server of the run."""
    async with running_server() as running:
        yield running


@pytest.fixture(scope="session")
async def nursery() -> AsyncIterator[Nursery]:
    """What commands are forked from."""
    from tests.support.processes import environment  # noqa: PLC0415 - it imports this module

    async with running_nursery(environment()) as running:
        yield running


@pytest.fixture(params=[1], ids=["1-partition"])
def partitions(request: pytest.FixtureRequest) -> int:
    """How many partitions the database of a test has; parametrize indirectly for others."""
    count: int = request.param
    return count


@pytest.fixture
async def database_url(server: Server, partitions: int) -> AsyncIterator[str]:
    """The URL of a new database with the schema in it."""
    async with server.database(partitions) as url:
        yield url


@pytest.fixture
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """The URL of a new database with nothing in it."""
    async with server.database() as url:
        yield url


@pytest.fixture
async def open_stack() -> AsyncIterator[Callable[[str], Awaitable[Stack]]]:
    """Open userlogs on databases; closed after the test."""
    opened: list[Stack] = []

    async def open_one(url: str, **how: Any) -> Stack:
        opened.append(await Stack.open(url, **how))
        return opened[-1]

    yield open_one
    for stack in opened:
        await stack.close()


@pytest.fixture(scope="module")
async def looked_at(server: Server) -> AsyncIterator[Stack]:
    """An open userlog for tests that change nothing in it, or each a part of its own."""
    async with server.database(1) as url:
        stack = await Stack.open(url)
        yield stack
        await stack.close()


@pytest.fixture
async def stack(database_url: str, open_stack: Callable[[str], Awaitable[Stack]]) -> Stack:
    """An open userlog on a new database."""
    return await open_stack(database_url)
