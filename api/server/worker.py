"""A process of the service that runs several: it answers requests, or projects.

Its supervisor tells it everything on standard input: in the first line what to do, in each later
one the secrets that count from then on. The end of the input means to stop, so it never outlives
its supervisor. Once it does its work it says so, in one line on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
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
from api.runtime import StoppedWaitingError, opened
from api.server.process import answering, projecting, traced
from eventstore.errors import LogError

if TYPE_CHECKING:
    from collections.abc import Callable

READY = b"ready\n"
_LINE_BYTES_MAX = 1 << 20
_WAKES_MAX = 1 << 16
_log = structlog.stdlib.get_logger("userlog")


class Task(msgspec.Struct, frozen=True):
    """What a worker is told first.

    One with `sockets` answers requests there and writes into the pipe `wake` after each append;
    one without projects, and reads from it.
    """

    settings: Settings
    secrets: Secrets
    sockets: list[int]
    wake: int


async def _work() -> None:
    told = await _standard_input()
    task = msgspec.json.decode(await told.readline(), type=Task)
    logs.configure(task.settings.log_level, task.settings.log_format)
    stopping = _until_signal()
    listener = asyncio.create_task(_listen(told, task.secrets, stopping), name="supervisor")
    with contextlib.suppress(StoppedWaitingError):
        await (_answer if task.sockets else _project)(task, stopping)
    listener.cancel()


async def _answer(task: Task, stopping: asyncio.Event) -> None:
    sockets = [socket.socket(fileno=number) for number in task.sockets]
    service = answering(task.settings, task.secrets, sockets, stopping, project=False)
    async with service as runtime:
        runtime.log.appended = _waking(task.wake)
        _say_ready()
        await stopping.wait()


async def _project(task: Task, stopping: asyncio.Event) -> None:
    async with (
        opened(task.settings, task.secrets, stopping=stopping) as runtime,
        traced(runtime) as traces,
        projecting(runtime, traces) as projector,
    ):

        def woken() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(task.wake, _WAKES_MAX)
            projector.wake()

        asyncio.get_running_loop().add_reader(task.wake, woken)
        _say_ready()
        await stopping.wait()


def _waking(pipe: int) -> Callable[[], None]:
    def wake() -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake
            os.write(pipe, b".")

    return wake


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _listen(told: asyncio.StreamReader, secrets: Secrets, stopping: asyncio.Event) -> None:
    while line := await told.readline():
        secrets.renew(msgspec.json.decode(line, type=Secrets))
    stopping.set()


def _until_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # for the supervisor to hear
    return stopping


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def main() -> NoReturn:
    """Do the work of a worker process; the exit code tells how it went."""
    try:
        uvloop.run(_work())
    except LogError as error:
        _log.error("worker can't go on", problem=str(error))
    except Exception as error:  # noqa: BLE001 - a traceback may quote data
        _log.error("worker failed", exc_info=error)
    else:
        sys.exit(0)
    sys.exit(1)
