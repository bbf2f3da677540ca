"""Offer a service twice what it can hold, and see what becomes of it.

    python tests/load/overload.py --seconds 600

First as much as goes: a number of connections, each sending when it has its answer. Then twice as
many deliveries a second as were taken in that time, whether answered or not, over as many
connections as it takes. Memory must stay flat, who is accepted must be so in time, who is refused
at once, and all that was acknowledged must be in the log, once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import uvloop
from connection import Connection

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from data import Shape, deliveries
from run import SECRET, Crash

from api.webhook.verify import HEADER, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 64
CONNECTIONS_MAX = 4_000
MEASURE_S = 15
TICK_S = 0.01
REPORT_S = 30
USERS = 20_000


class Load:
    """Deliveries to one service, and what was answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._requests = requests()
        self.seconds: dict[int, list[float]] = {200: [], 503: []}
        self.positions: list[int] = []
        self.broken = 0
        self.unsent = 0
        self._idle: deque[Connection] = deque()
        self._open = 0

    async def closed(self, seconds: float) -> float:
        """Send as much as goes; return how many deliveries a second were taken."""
        before, until = len(self.positions), time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < until:
                await self._send()

        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        return (len(self.positions) - before) / seconds

    async def offered(self, rate: float, seconds: float) -> None:
        """Begin so many deliveries a second, whatever becomes of them."""
        began, sent = time.monotonic(), 0
        tasks: set[asyncio.Task[None]] = set()
        while (now := time.monotonic() - began) < seconds:
            due = int(now * rate)
            for _ in range(due - sent):
                if not self._idle and self._open >= CONNECTIONS_MAX:
                    self.unsent += 1
                    continue
                task = asyncio.create_task(self._send())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            sent = due
            await asyncio.sleep(TICK_S)
        if tasks:
            await asyncio.wait(tasks)

    async def _send(self) -> None:
        try:
            connection = self._taken() or await self._connect()
        except OSError:
            self.broken += 1
            return
        try:
            status, body, took_s = await connection.send(next(self._requests))
        except (OSError, RuntimeError, asyncio.IncompleteReadError):  # RuntimeError: uvloop's
            self.broken += 1
            self._open -= 1
            return
        self._idle.append(connection)
        if status == 200:
            (position,) = json.loads(body)["positions"]
            self.positions.append(int(position.partition(":")[2]))
        self.seconds[status].append(took_s)

    def _taken(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.closed:
                return connection
            self._open -= 1
        return None

    async def _connect(self) -> Connection:
        self._open += 1
        try:
            return Connection(*await asyncio.open_connection("127.0.0.1", self._port))
        except OSError:
            self._open -= 1
            raise


def requests() -> Iterator[bytes]:
    """Make signed requests of one user each, without end."""
    for body in deliveries(Shape(events=sys.maxsize, users=USERS)):
        head = f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\n{HEADER}: {sign(body, SECRET)}\r\n"
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def open_files(pid: int) -> int:
    """How many files a process has open: almost all are connections, which cost memory."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory_mb(pid: int) -> float:
    """How much memory of its own a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def percentiles(seconds: list[float]) -> str:
    """Say half and ninety-nine in a hundred."""
    if len(seconds) < 2:
        return "none"
    cuts = quantiles(seconds, n=100)
    return f"{len(seconds)}, p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms"


async def watch(pid: int, load: Load) -> None:
    """Say now and then how it stands."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(REPORT_S)
        accepted, refused = (percentiles(load.seconds[status]) for status in (200, 503))
        print(
            f"{time.monotonic() - began:4.0f} s: {memory_mb(pid):.0f} MB,"
            f" {open_files(pid)} files open;"
            f" accepted {accepted}; refused {refused}",
            flush=True,
        )


async def run(service: Crash, seconds: float) -> bool:
    """Measure, overload, and compare with the log; return whether everything holds."""
    load, pid = Load(service.port), service.pid
    rate = await load.closed(MEASURE_S)
    print(f"taken with {CONNECTIONS} connections: {rate:.0f} deliveries a second", flush=True)
    for seen in load.seconds.values():
        seen.clear()
    watching = asyncio.create_task(watch(pid, load))
    await load.offered(2 * rate, min(seconds, 60))
    warm_mb = memory_mb(pid)
    await load.offered(2 * rate, max(0, seconds - 60))
    watching.cancel()
    mb = memory_mb(pid)
    accepted, refused = (percentiles(load.seconds[status]) for status in (200, 503))
    print(f"offered {2 * rate:.0f} a second for {seconds:.0f} s: accepted {accepted}")
    print(f"refused {refused}; connections broken {load.broken}; not sent {load.unsent}")
    print(f"memory {warm_mb:.0f} MB after a minute, {mb:.0f} MB at the end")
    lines = await asyncio.to_thread(service.userlog, "status", "--json")
    (head,) = json.loads(lines)["heads"]
    last = int(head["position"].partition(":")[2])
    doubled = len(load.positions) - len(set(load.positions))
    refused_late = last - len(load.positions)  # 503 at the deadline, and in the log nevertheless
    print(
        f"acknowledged {len(load.positions)}, doubled {doubled}, head {last} ({refused_late} late)"
    )
    return not doubled and refused_late >= 0 and max(load.positions) <= last


def main() -> None:
    """Overload a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="userlog-overload-") as folder:
        service = Crash(Path(folder), random.randrange(1_000_000))
        service.command = ("serve", "--workers", str(arguments.workers))
        service.start()
        try:
            held = uvloop.run(run(service, arguments.seconds))
        finally:
            service.stop()
    sys.exit(not held)


if __name__ == "__main__":
    main()
