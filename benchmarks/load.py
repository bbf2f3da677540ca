"""Sends HTTP requests as fast as a server answers, from a process of its own.

Requests are made and signed before a round begins, and of an answer no more is looked at than it
takes to find its end, so that the sender needs little of the processor. Each line of its input is
an order, each line of its output what came of it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from subprocess import PIPE
from typing import TYPE_CHECKING, cast

import msgspec
import uvloop
from common import Round
from data import Shape, deliveries

from api.webhook.verify import HEADER, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a-secret-of-the-benchmarks"  # noqa: S105 - protects nothing
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_STOP_S = 10.0


class Order(msgspec.Struct):
    """Send to a port, over so many connections, for so long; GET these paths, or deliveries."""

    port: int
    path: str
    connections: int
    seconds: float
    gets: list[str] = []
    token: str = ""
    rate: float = 0
    """How many a second at most; 0: as many as are answered."""
    count: int = 0
    """How many deliveries at most; 0: as many as there is time for."""


class Report(msgspec.Struct):
    """What came of an order. `statuses` counts the answers by their status."""

    round: Round
    statuses: dict[int, int]
    last: str
    """An answer's body, of the last one."""


class Connection(asyncio.Protocol):
    """Sends one request after the other, each when it has its answer."""

    def __init__(self, requests: Iterator[bytes], report: Counts, pause_s: float) -> None:
        self._requests = requests
        self._report = report
        self._pause_s = pause_s
        self._received = b""
        self._began = 0.0
        self._transport: asyncio.Transport
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        asyncio.get_running_loop().call_later(random.random() * self._pause_s, self._send)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionResetError("the server closed a connection"))

    def _send(self) -> None:
        self._began = time.perf_counter()
        request = next(self._requests, None) if self._began < self._report.until else None
        if request is None:
            self.ended.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end:
            return
        length = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        took_s = time.perf_counter() - self._began
        self._report.note(int(head[9:12]), took_s, body)
        self._received = b""
        if self._pause_s > took_s:
            asyncio.get_running_loop().call_later(self._pause_s - took_s, self._send)
        else:
            self._send()


class Counts:
    """The answers of a round."""

    def __init__(self, seconds: float) -> None:
        self.began = time.perf_counter()
        self.until = self.began + seconds
        self.took: list[float] = []
        self.statuses: dict[int, int] = {}
        self.last = b""

    def note(self, status: int, took_s: float, body: bytes) -> None:
        self.took.append(took_s)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.last = body

    def report(self) -> Report:
        took_s = time.perf_counter() - self.began
        return Report(Round.of(self.took, took_s), self.statuses, self.last.decode())


def posts(bodies: Iterator[bytes], path: str) -> Iterator[bytes]:
    """Make signed deliveries."""
    for body in bodies:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{HEADER}: {sign(body, SECRET)}\r\n"
        yield (
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )


async def obey(order: Order, bodies: Iterator[bytes], rate_max: int) -> Report:
    """Make the requests, then send them."""
    count = order.count or max(100, int(order.seconds * rate_max))
    if order.gets:
        head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {order.token}\r\n\r\n"
        made: Iterator[bytes] = itertools.cycle(
            [f"GET {path} {head}".encode() for path in order.gets]
        )
    else:
        made = iter(list(posts(itertools.islice(bodies, count), order.path)))
    counts = Counts(order.seconds)
    pause_s = order.connections / order.rate if order.rate else 0.0
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(
            lambda: Connection(made, counts, pause_s), "127.0.0.1", order.port
        )
        for _ in range(order.connections)
    ]
    await asyncio.gather(*(protocol.ended for _, protocol in opened))
    return counts.report()


def main() -> None:
    """Obey orders until there are no more."""
    users, rate_max = map(int, sys.argv[1:])
    bodies = deliveries(Shape(sys.maxsize, users, seed=3))
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        report = uvloop.run(obey(order, bodies, rate_max))
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


class Sender:
    """The process, as its orderers see it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, users: int = 4_000, rate_max: int = 25_000) -> Sender:
        """Start it; it never runs out of deliveries below `rate_max` a second."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, __file__, str(users), str(rate_max),
                stdin=PIPE, stdout=PIPE, limit=1 << 20,
            )
        )  # fmt: skip

    async def send(self, order: Order) -> Report:
        """Have an order obeyed; every answer must be a success."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        report = msgspec.json.decode(await self._process.stdout.readline(), type=Report)
        assert set(report.statuses) == {200}, report
        return report

    async def stop(self) -> None:
        """End it, also while it waits for an answer that does not come."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


if __name__ == "__main__":
    main()
