"""A worker process of a service that has several: it answers requests, or projects.

It reads its configuration from the first line of standard input, and from each later one the
secrets that are valid from then on. An empty line means to stop. The end of the input means that
the supervisor was killed: the worker stops too, and removes the folder that the supervisor had made
for metrics. Once a worker does its work it writes one line to standard output. If it ends because
of what an operator has to mend, it writes that there as JSON.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog
import uvloop

from api.config.secret_files import Secrets
from api.config.settings import Settings
from api.observe import logs
from api.runtime import Waiting, opened
from api.server.process import answering, projecting, traced
from api.web.waiting import StoppedWaitingError
from eventstore.errors import LoginError, NotThereError, OtherVersionError, explained

if TYPE_CHECKING:
    from eventstore.group_commit import Observer

READY = b"ready\n"
# How a worker ends that can't work with these settings, however often it is started.
WRONG_SETTINGS = 2
_SETTINGS = (LoginError, NotThereError, OtherVersionError)
_LINE_BYTES_MAX = 1 << 20
_WAKES_MAX = 1 << 16
_log = structlog.stdlib.get_logger("userlog")


class WorkerConfig(msgspec.Struct, frozen=True):
    """What a worker reads first.

    One with `sockets` answers requests there and writes into the pipe `wake` after each append;
    one without projects, and reads from it.
    """

    settings: Settings
    secrets: Secrets
    sockets: list[int]
    wake: int


async def _work() -> None:
    lines = await _standard_input()
    config = msgspec.json.decode(await lines.readline(), type=WorkerConfig)
    logs.configure(config.settings.log_level, config.settings.log_format)
    stopping = _until_signal()
    listener = asyncio.create_task(_listen(lines, config.secrets, stopping), name="supervisor")
    try:
        with contextlib.suppress(StoppedWaitingError):
            await (_answer if config.sockets else _project)(config, stopping)
    finally:
        listener.cancel()
        if lines.at_eof():
            shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


async def _answer(config: WorkerConfig, stopping: asyncio.Event) -> None:
    sockets = [socket.socket(fileno=number) for number in config.sockets]
    service = answering(config.settings, config.secrets, sockets, stopping, project=False)
    async with service as runtime:
        runtime.log.observers.append(_waking(config.wake))
        _report(READY)
        await stopping.wait()


async def _project(config: WorkerConfig, stopping: asyncio.Event) -> None:
    async with (
        opened(config.settings, config.secrets, waiting=Waiting(stopping)) as runtime,
        traced(runtime) as traces,
        projecting(runtime, traces) as background,
    ):

        def woken() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(config.wake, _WAKES_MAX)
            background.projector.wake()

        asyncio.get_running_loop().add_reader(config.wake, woken)
        _report(READY)
        await stopping.wait()


def _waking(pipe: int) -> Observer:
    def wake(_events: int, _seconds: float) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake
            os.write(pipe, b".")

    return wake


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _listen(lines: asyncio.StreamReader, secrets: Secrets, stopping: asyncio.Event) -> None:
    while (line := await lines.readline()).strip():
        secrets.renew(msgspec.json.decode(line, type=Secrets))
    stopping.set()


def _until_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor's to handle
    return stopping


def _report(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def main() -> NoReturn:
    """Do the work of a worker process; the exit code tells how it went."""
    atexit.register(gc.freeze)  # else its end goes through all that was imported
    try:
        uvloop.run(_work())
    except Exception as error:  # noqa: BLE001 - a traceback may quote data
        expected = explained(error)
        if expected is None:
            _log.error("worker failed", exc_info=error)
            sys.exit(1)
        _report(msgspec.json.encode(str(expected)) + b"\n")
        sys.exit(WRONG_SETTINGS if isinstance(expected, _SETTINGS) else 1)
    sys.exit(0)
