"""What a test under load starts, and ends however it is left itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tests.support.processes import Home, Service, command_line
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

STOP_S = 30.0
_T = TypeVar("_T")


class Child:
    """A process that obeys orders."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def obey(self, order: msgspec.Struct, report: type[_T]) -> _T:
        """Give an order, and wait for what came of it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        line = await self._process.stdout.readline()
        return msgspec.json.decode(line, type=report)


@contextlib.asynccontextmanager
async def child(module: Any) -> AsyncGenerator[Child]:
    """Run a module as a program; it is ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, module.__file__, stdin=PIPE, stdout=PIPE
    )
    try:
        yield Child(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def serving(**environ: str) -> AsyncGenerator[tuple[Home, Service]]:
    """Serve in a folder that is gone afterwards, as are service and PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="userlog-attacks-") as folder:
        home = Home(Path(folder) / "data", environ)
        async with home.serving() as service:
            postmaster = home.postmaster()
            late = asyncio.get_running_loop().call_later
            try:
                yield home, service
            finally:
                killing = late(STOP_S, service.process.send_signal, signal.SIGKILL)
                await service.stop()
                killing.cancel()
                with contextlib.suppress(OSError):  # the service has stopped it, unless killed
                    os.kill(home.postmaster(), signal.SIGINT)
                await until(lambda: not command_line(postmaster))
