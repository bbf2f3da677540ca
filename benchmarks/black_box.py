"""A userlog of any revision, of which no more is used than its commands, HTTP and its PostgreSQL.

PostgreSQL is the embedded one, and is looked at for what it has written and how large tables are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import asyncpg
from services import SECRETS, NeverServedError, Running, running
from storage import SIZES, WAL

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/load"))
from processor import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

STEP_S = 300.0
T = TypeVar("T")
_KILL_S = 10.0
# Where this is started from must not matter: userlog is to be found by its venv alone.
_PROGRAM = ("-P", "-m", "api")
_POSTMASTER = "*/postmaster.pid"


class CannotError(Exception):
    """What is to be measured can't be done by a revision; says why."""


class Cost(NamedTuple):
    """What something has taken: time, processor time of both, and WAL."""

    seconds: float
    userlog_s: float
    postgres_s: float
    wal_bytes: float

    def plus(self, other: Cost) -> Cost:
        """Return what both have taken."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class BlackBox:
    """A data directory, and the userlog of one Python there; its service runs meanwhile.

    The service projects nothing. It keeps PostgreSQL running between the commands.
    """

    def __init__(self, python: Path, folder: Path, service: Running, postmaster: int) -> None:
        self._python = python
        self._folder = folder
        self._postmaster = postmaster
        self.service = service
        self._connection: asyncpg.Connection[asyncpg.Record]

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(cls, python: Path, folder: Path) -> AsyncGenerator[BlackBox]:
        """Begin with a directory that is not there yet; service and PostgreSQL end at the end."""
        options = ("serve", "--port", "0", "--no-projector")
        log_path = folder.with_suffix(".log")
        try:
            with log_path.open("wb") as log:
                command = (str(python), *_PROGRAM, *options)
                environment = _environment(folder)
                async with running(command, environment, folder=folder.parent, log=log) as service:
                    postmaster, socket_dir = _postgres(folder)
                    found = cls(python, folder, service, postmaster)
                    url = f"postgresql://postgres@/postgres?host={socket_dir}"
                    found._connection = await asyncpg.connect(url)
                    try:
                        yield found
                    finally:
                        await found._connection.close()
        except NeverServedError:
            raise CannotError(f"userlog serve: {_last(log_path.read_bytes())}") from None
        finally:
            await _stop_postgres(folder)

    async def command(self, *arguments: str) -> bytes:
        """Run a command, which must succeed; return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(str(self._python), *_PROGRAM, *arguments), stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
            env=_environment(self._folder), cwd=self._folder.parent,
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(), STEP_S)
        except TimeoutError:
            raise CannotError(f"userlog {arguments[0]} took more than {STEP_S:g} s") from None
        finally:
            await _end(process)
        if process.returncode:
            raise CannotError(f"userlog {arguments[0]}: {_last(err)}")
        return out

    async def of_command(self, *arguments: str) -> tuple[Cost, bytes]:
        """Run a command; return what it takes, its start with it, and what it prints."""
        await self.checkpoint()
        return await self._cost(self.command(*arguments), _ended_s)

    async def of_service(self, work: Awaitable[T]) -> tuple[Cost, T]:
        """Do some work; return what the service takes for it, and what the work returns."""
        usage = Usage(self.service.pid, self._postmaster)
        return await self._cost(work, lambda: usage.processor_s() - usage.postgres_s())

    async def checkpoint(self) -> None:
        """Let nothing that was written before be left to be written while something is measured."""
        await self._connection.execute("CHECKPOINT")

    async def _cost(self, work: Awaitable[T], userlog_s: Callable[[], float]) -> tuple[Cost, T]:
        before = await self._taken(userlog_s)
        result = await work
        after = await self._taken(userlog_s)
        return Cost(*(b - a for a, b in zip(before, after, strict=True))), result

    async def _taken(self, userlog_s: Callable[[], float]) -> Cost:
        wal = float(await self._connection.fetchval(WAL))
        postgres_s = Usage(self._postmaster, self._postmaster).postgres_s()
        return Cost(time.perf_counter(), userlog_s(), postgres_s, wal)

    async def sizes(self) -> dict[str, int]:
        """Return the bytes of each table with its indexes, without what is to be vacuumed."""
        await self._connection.execute("VACUUM")
        await self.checkpoint()
        return {one["name"]: one["size"] for one in await self._connection.fetch(SIZES)}


def _ended_s() -> float:
    """Return the processor time of all processes that this one has waited for, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment(folder: Path) -> dict[str, str]:
    """Settings, without any of the shell that this was started from."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("USERLOG", "PYTHON"))}
    return {**clean, **SECRETS, "USERLOG_DATA_DIR": str(folder)}


def _postgres(folder: Path) -> tuple[int, str]:
    """Return the process of the embedded PostgreSQL, and the directory of its socket."""
    (path,) = folder.glob(_POSTMASTER)
    lines = path.read_text(encoding="utf-8").splitlines()
    return int(lines[0]), lines[4]


async def _stop_postgres(folder: Path) -> None:
    """Stop the PostgreSQL that a service has left, as it does when it is killed."""
    with contextlib.suppress(ValueError, OSError):  # there is none
        os.kill(_postgres(folder)[0], signal.SIGINT)
    deadline = time.monotonic() + STEP_S
    while _runs(folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - another's
        await asyncio.sleep(0.1)


def _runs(folder: Path) -> bool:
    return any(folder.glob(_POSTMASTER))


async def _end(process: asyncio.subprocess.Process) -> None:
    for end in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _KILL_S)


def _last(printed: bytes) -> str:
    """Return the last line that was printed."""
    lines = printed.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word about it")
