"""Attackers, in a process of their own, which gives way to the others of this machine.

Each line of its input is an order, each line of its output what came of it. Whatever goes on at
the end of an order is broken off.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import resource
import signal
import sys
import time
from collections import Counter
from typing import cast

import msgspec
import uvloop
from attack_kinds import ATTACKS, Attack, Target

TICK_S = 0.01
PAUSE_S = 0.05
_GIVING_WAY = 5
_DRIP_S = 1.0
_LENGTH = b"content-length: "


class Order(msgspec.Struct, frozen=True):
    """Attack for so long, at the attack's own pace or as fast as it goes."""

    name: str
    target: Target
    seconds: float
    paced: bool


class Report(msgspec.Struct, frozen=True):
    """What came of an order; the status 0 is that of an attack without an answer.

    `unsent` are those that were due when as many went on as may, or that found no connection.
    """

    begun: int
    unsent: int
    statuses: dict[int, int]
    seconds: float


class Line(asyncio.Protocol):
    """One connection, and one attack on it at a time."""

    def __init__(self) -> None:
        self.open = True
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._drip: asyncio.TimerHandle | None = None
        self._clear()

    def _clear(self) -> None:
        self._head, self._status, self._left, self._last = b"", 0, math.inf, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self, request: bytes, *, drips: bool) -> asyncio.Future[int]:
        """Send a request; return what will have the status of its answer."""
        self._clear()
        self._answer = asyncio.get_running_loop().create_future()
        if not self.open:
            self._end()
        self._transport.write(request)
        if drips:
            self._follow()
        return self._answer

    def _follow(self) -> None:
        if self.open:
            self._drip = asyncio.get_running_loop().call_later(_DRIP_S, self._follow)
            self._transport.write(b" ")

    def data_received(self, data: bytes) -> None:
        """Read the head of the answer, and only count what follows it."""
        if self._status:
            self._left -= len(data)
        else:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            lines = head.lower()
            self._status = int(head[9:12])
            self._last = b"connection: close" in lines
            if _LENGTH in lines:
                length = lines.partition(_LENGTH)[2].partition(b"\r\n")[0]
                self._left = int(length) - len(body)
        if self._left <= 0:
            if self._last:
                self.abort()
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._drip:
            self._drip.cancel()
        self._end()

    def _end(self) -> None:
        if not self._answer.done():
            self._answer.set_result(self._status)

    def abort(self) -> None:
        """Hang up at once."""
        self.open = False
        self._transport.abort()


class Attackers:
    """Attack, and count."""

    def __init__(self, attack: Attack, target: Target) -> None:
        self._attack, self._port = attack, target.port
        requests = attack.requests(target)
        self._requests = itertools.chain([next(requests)], requests)  # the first may take its time
        self._addresses = itertools.cycle(attack.addresses)
        self._lines: set[Line] = set()
        self._idle: list[Line] = []
        self.begun = self.unsent = 0
        self.statuses: Counter[int] = Counter()

    async def paced(self, seconds: float) -> None:
        """Begin as many a second as the attack says, whatever becomes of them."""
        began, due = time.monotonic(), 0
        tasks: set[asyncio.Task[None]] = set()
        while (now := time.monotonic() - began) < seconds:
            before, due = due, int(now * self._attack.rate)
            room = self._attack.at_once - len(tasks)
            for _ in range(min(room, due - before)):
                task = asyncio.create_task(self._one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            self.unsent += max(0, due - before - room)
            await asyncio.sleep(TICK_S)
        await self._leave(tasks)

    async def at_full_speed(self, seconds: float) -> None:
        """Begin another as soon as one has ended."""

        async def on_and_on() -> None:
            while True:
                await self._one()

        tasks = {asyncio.create_task(on_and_on()) for _ in range(self._attack.at_full)}
        await asyncio.sleep(seconds)
        await self._leave(tasks)

    async def _leave(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines:
            line.abort()

    async def _one(self) -> None:
        try:
            line = self._kept() or await self._connect()
        except OSError:
            self.unsent += 1
            await asyncio.sleep(PAUSE_S)
            return
        self.begun += 1
        status = await line.begin(next(self._requests), drips=self._attack.drips)
        self.statuses[status] += 1
        if not self._attack.whole:
            line.abort()
        if line.open:
            self._idle.append(line)
        else:
            self._lines.discard(line)

    def _kept(self) -> Line | None:
        while self._idle:
            if (line := self._idle.pop()).open:
                return line
            self._lines.discard(line)
        return None

    async def _connect(self) -> Line:
        loop = asyncio.get_running_loop()
        address = next(self._addresses)
        local = (address, 0) if address else None
        _, line = await loop.create_connection(Line, "127.0.0.1", self._port, local_addr=local)
        self._lines.add(line)
        return line


async def obey(order: Order) -> Report:
    """Attack as ordered."""
    attack = ATTACKS[order.name]
    attackers = Attackers(attack, order.target)
    began = time.monotonic()
    await (attackers.paced if order.paced else attackers.at_full_speed)(order.seconds)
    took_s = time.monotonic() - began
    return Report(attackers.begun, attackers.unsent, attackers.statuses, took_s)


def main() -> None:
    """Obey orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever gives the orders ends this process
    os.nice(_GIVING_WAY)  # as if they were on machines of their own
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for line in sys.stdin.buffer:
        report = uvloop.run(obey(msgspec.json.decode(line, type=Order)))
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
