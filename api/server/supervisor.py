"""The supervisor: runs the processes that answer requests, and the one that projects.

A process that dies is replaced. The new one takes over the old one's socket, so the connections
that waited there are not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from api.server.worker import READY, WRONG_SETTINGS, WorkerConfig
from eventstore.errors import LoginError
from projections.subprocesses import WorkerError, command, how_ended

if TYPE_CHECKING:
    import socket
    from asyncio.subprocess import Process
    from collections.abc import Callable, Generator

    from api.config.secret_files import Secrets
    from api.config.settings import Settings

# Before a process that died is replaced: at first, and at most if it keeps dying.
_PAUSE_S = 0.1
_PAUSE_S_MAX = 5.0
# A process that lived for so long did not die of its start.
_STEADY_S = 60.0
# What a process may take to end beyond the time for the requests in flight.
_GRACE_S = 5.0
# Where files lie in memory.
_MEMORY = "/dev/shm"  # noqa: S108 - what is made there has a name of its own
_UNKNOWN = "a worker process did not start; its own log line has the reason"
_log = structlog.stdlib.get_logger("userlog.supervisor")


def _memory() -> str | None:
    """Where files of metrics are mapped: on a full disk the system kills who writes to one."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else None


class Supervisor:
    """Keeps the processes running."""

    def __init__(
        self,
        secrets: Secrets,
        listeners: list[list[socket.socket]],
        *,
        project: bool,
    ) -> None:
        """One process answers at each of the `listeners`; nothing runs until `run`."""
        self._secrets = secrets
        self._listeners = listeners
        self._project = project
        self._slots: list[_Slot] = []

    def renew(self, secrets: Secrets) -> None:
        """Pass renewed secrets on to all processes."""
        self._secrets.renew(secrets)
        for slot in self._slots:
            slot.renew(self._secrets)

    async def run(
        self, settings: Settings, stopping: asyncio.Event, ready: Callable[[], None]
    ) -> None:
        """Run the processes until `stopping`; call `ready` once when all are.

        WorkerError if one ends before it was ready for the first time, and LoginError if no other
        start would end otherwise.
        """
        with (
            _pipe() as (reading, writing),
            tempfile.TemporaryDirectory(prefix="userlog-metrics-", dir=_memory()) as metrics,
        ):
            configs = [
                WorkerConfig(settings, self._secrets, [one.fileno() for one in sockets], writing)
                for sockets in self._listeners
            ]
            if self._project:
                configs.append(WorkerConfig(settings, self._secrets, [], reading))
            self._slots = [_Slot(config, metrics) for config in configs]
            waiting = asyncio.create_task(_wait_for_all(self._slots, ready))
            closing = asyncio.create_task(self._close(stopping))
            kept = (slot.keep(stopping) for slot in self._slots)
            ends = await asyncio.gather(*kept, return_exceptions=True)
            waiting.cancel()
            await closing
        for end in ends:
            if end is not None:
                raise end

    async def _close(self, stopping: asyncio.Event) -> None:
        """Close the sockets when no process will accept there any more."""
        await stopping.wait()
        for one in itertools.chain(*self._listeners):
            one.close()


async def _wait_for_all(slots: list[_Slot], ready: Callable[[], None]) -> None:
    for slot in slots:
        await slot.ready.wait()
    ready()


@contextlib.contextmanager
def _pipe() -> Generator[tuple[int, int]]:
    """Open a pipe into which the processes that append write, and the one that projects reads."""
    ends = os.pipe()
    try:
        for end in ends:
            os.set_blocking(end, False)
        yield ends
    finally:
        for end in ends:
            os.close(end)


class _Slot:
    """One of the processes, and those that take its place."""

    def __init__(self, config: WorkerConfig, metrics: str) -> None:
        self._config = config
        self._metrics = metrics
        self._process: Process | None = None
        # Why the last one ended, if it knew.
        self._problem: str | None = None
        # Set once a process of this slot has begun its work.
        self.ready = asyncio.Event()

    def renew(self, secrets: Secrets) -> None:
        """Pass renewed secrets on; a process that is not there yet begins with them."""
        if self._process and self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.write(msgspec.json.encode(secrets) + b"\n")

    async def keep(self, stopping: asyncio.Event) -> None:
        """Keep a process running until `stopping`, which a failed first start sets."""
        pause_s = _PAUSE_S
        while not stopping.is_set():
            began = time.monotonic()
            process = await self._run(stopping)
            if stopping.is_set():
                return
            if not self.ready.is_set():
                stopping.set()
                kind = LoginError if process.returncode == WRONG_SETTINGS else WorkerError
                raise kind(self._problem or _UNKNOWN)
            how = f"process {process.pid} {how_ended(process.returncode or 0)}"
            about = {"problem": self._problem} if self._problem else {}
            projects = not self._config.sockets
            _log.error("worker died; replacing it", how=how, projects=projects, **about)
            pause_s = _PAUSE_S if time.monotonic() - began > _STEADY_S else pause_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    async def _run(self, stopping: asyncio.Event) -> Process:
        """Run a process to its end, which is soon if it is `stopping`."""
        self._process = process = await asyncio.create_subprocess_exec(
            *command("api.server.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": self._metrics},
            pass_fds=(*self._config.sockets, self._config.wake),
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        assert process.stdin  # noqa: S101 - a pipe was asked for
        process.stdin.write(msgspec.json.encode(self._config) + b"\n")
        ended = asyncio.create_task(self._follow(process))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():  # the end of its input would mean that this process was killed
            process.stdin.write(b"\n")
        patience_s = self._config.settings.shutdown_timeout_s + _GRACE_S
        if not (await asyncio.wait((ended,), timeout=patience_s))[0]:
            process.kill()
        await ended
        process.stdin.close()
        self._forget_gauges(process.pid)
        return process

    def _forget_gauges(self, pid: int) -> None:
        """Do as prometheus_client's mark_process_dead, which has no types."""
        for file in Path(self._metrics).glob(f"gauge_live*_{pid}.db"):
            file.unlink()

    async def _follow(self, process: Process) -> None:
        assert process.stdout  # noqa: S101 - likewise
        line = await process.stdout.readline()
        if line == READY:
            self.ready.set()
            line = await process.stdout.readline()
        whole = line.endswith(b"\n")  # or it was killed while it wrote
        self._problem = msgspec.json.decode(line, type=str) if whole else None
        await process.wait()
