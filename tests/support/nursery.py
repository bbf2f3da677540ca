"""Starts commands by forking a process that has imported userlog: a tenth of a start's time.

Each is a process of its own, with its own environment, folder, output and signals; only how it
began is not how users begin it. At least one test of each command begins it as they do.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import selectors
import socket
import sys
import threading
from asyncio import StreamReader, StreamReaderProtocol
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO, NoReturn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

_ORDER_BYTES_MAX = 1 << 17
_DESCRIPTORS_MAX = 1 << 10


class Forked:
    """A command that has begun, as asyncio's Process."""

    def __init__(
        self, pid: int, answers: StreamReader, stdout: StreamReader, stderr: StreamReader | None
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self._stderr = stderr
        self._ended = asyncio.create_task(answers.readline())

    @property
    def returncode(self) -> int | None:
        return int(self._ended.result()) if self._ended.done() else None

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait for the end."""
        return int(await asyncio.shield(self._ended))

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return what it writes until its end."""
        readers = [self.stdout, self._stderr] if self._stderr else [self.stdout]
        out, *err = await asyncio.gather(*(reader.read() for reader in readers))
        await self.wait()
        return out, b"".join(err)


class Nursery:
    """The process that is forked."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders

    async def start(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        stderr: BinaryIO | None,
    ) -> Forked:
        """Begin a command; what it writes to standard error goes to a file or is kept."""
        mine, its = socket.socketpair()
        answers, writer = await asyncio.open_unix_connection(sock=mine)
        stdout, out = await _pipe()
        kept, err = await _pipe() if stderr is None else (None, stderr.fileno())
        order = json.dumps([arguments, dict(environ), str(folder)]).encode()
        socket.send_fds(self._orders, [order], [out, err, its.fileno()])
        its.close()
        os.close(out)
        if stderr is None:
            os.close(err)
        forked = Forked(int(await answers.readline()), answers, stdout, kept)
        forked._ended.add_done_callback(lambda _: writer.close())
        return forked


async def _pipe() -> tuple[StreamReader, int]:
    ours, its = os.pipe()
    reader = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    return reader, its


@asynccontextmanager
async def running_nursery(environ: Mapping[str, str]) -> AsyncGenerator[Nursery]:
    """Start the process that is forked; it ends with the block."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", __file__, str(its.fileno())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        pass_fds=[its.fileno()],
        env=environ,
    )
    its.close()
    try:
        yield Nursery(ours)
    finally:
        ours.close()
        await process.wait()


def _serve(orders: socket.socket) -> list[str] | None:
    """Fork for each order; return the arguments in a forked process, None in the first."""
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, answers = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                selector.unregister(key.fileobj)
                os.close(key.fd)
                with answers:
                    answers.sendall(b"%d\n" % code)
                continue
            order, descriptors, _, _ = socket.recv_fds(orders, _ORDER_BYTES_MAX, 3)
            if not order:
                return None
            pid = os.fork()
            if pid == 0:
                # What is closed by number alone would be closed once more when it is garbage.
                for other in selector.get_map().values():
                    if other.data is not None:
                        other.data[1].close()
                selector.close()
                return _become(order, descriptors)
            answers = socket.socket(fileno=descriptors.pop())
            for descriptor in descriptors:
                os.close(descriptor)
            answers.sendall(b"%d\n" % pid)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, answers))


def _become(order: bytes, descriptors: list[int]) -> list[str]:
    arguments, environ, folder = json.loads(order)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in zip((nothing, *descriptors[:2]), range(3), strict=True):
        os.dup2(descriptor, place)
    os.closerange(3, _DESCRIPTORS_MAX)
    # What Python has made of the former ones knows whether one could seek there.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    return [str(argument) for argument in arguments]


def main() -> None:
    """Import all that commands need, and be forked."""
    from typer import _adapters  # noqa: F401, PLC0415 - what typer imports when it reads arguments

    from api.cli import main as cli  # noqa: PLC0415 - only here, not in the tests' process
    from api.server import serve  # noqa: F401, PLC0415 - what the commands import that speak HTTP
    from api.webhook import send  # noqa: F401, PLC0415 - likewise

    cli.command_line()
    gc.freeze()  # else the end of each process goes through all objects, and copies their pages
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        arguments = _serve(orders)
        if arguments is None:
            return
        orders.detach()
    sys.argv = ["userlog", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        _end(ended.code)


def _end(code: int) -> NoReturn:
    """End as forked processes of multiprocessing do: what was imported is not taken apart."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as the end of Python
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
