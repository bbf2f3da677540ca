"""An honest platform and an honest reader, in a process of their own: what others' attacks cost.

Every 30 ms one signed delivery and one question for a user begin, whatever became of those before.
Each line of its input is an order, each line of its output what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from statistics import quantiles
from typing import TYPE_CHECKING

import msgspec
import uvloop
from connection import Connection

from api.webhook.verify import HEADER, sign
from tests.support.deliveries import APP, T0_MS, delivery
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import Service

PACE_S = 0.03
PATIENCE_S = 15
USERS = 50
_PRIORITY = -5
# What happens to a connection that the service ends, or never had.
BROKEN = (OSError, RuntimeError, TimeoutError, asyncio.IncompleteReadError)


class Order(msgspec.Struct, frozen=True):
    """Ask for so many seconds; how long answers take is measured in the first of them."""

    port: int
    secret: str
    token: str
    seconds: float
    measured_s: float


class Report(msgspec.Struct, frozen=True):
    """What came of an order; the status 0 is that of a request without an answer."""

    p50_ms: float
    p99_ms: float
    deliveries: dict[int, int]
    reads: dict[int, int]


class Honest:
    """Sends and asks, and writes down what is answered."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._idle: list[Connection] = []
        self._took: list[float] = []
        self._counts = {"POST": Counter[int](), "GET": Counter[int]()}

    async def run(self) -> Report:
        """Begin everything in its time, and wait for the last answer."""
        began, tasks = time.perf_counter(), []
        for number in range(round(self._order.seconds / PACE_S)):
            await asyncio.sleep(began + number * PACE_S - time.perf_counter())
            measured = number * PACE_S < self._order.measured_s
            tasks += [
                asyncio.create_task(self._ask(method, request, measured=measured))
                for method, request in (
                    ("POST", self._delivery(number)),
                    ("GET", self._question(number)),
                )
            ]
        await asyncio.gather(*tasks)
        for connection in self._idle:
            connection.abort()
        took = self._took if len(self._took) > 1 else [PATIENCE_S, PATIENCE_S]
        cuts = quantiles(took, n=100, method="inclusive")
        return Report(1000 * cuts[49], 1000 * cuts[98], self._counts["POST"], self._counts["GET"])

    def _delivery(self, number: int) -> bytes:
        now_ms = time.time_ns() // 1_000_000
        user = f"honest-{number % USERS}"
        body = delivery(user, at_ms=now_ms - T0_MS, first_name=f"Asha {now_ms}")
        return post(body, sign(body, self._order.secret))

    def _question(self, number: int) -> bytes:
        path = f"/v1/applications/{APP}/users/honest-{(7 * number) % USERS}"
        return get(path, self._order.token)

    async def _ask(self, method: str, request: bytes, *, measured: bool) -> None:
        status, began, connection = 0, time.perf_counter(), None
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = self._kept() or await self._connect()
                status, _, _ = await connection.send(request)
            self._idle.append(connection)
        except BROKEN:
            if connection:
                connection.abort()
        self._counts[method][status] += 1
        if measured and status in {0, 200}:
            self._took.append(time.perf_counter() - began if status else PATIENCE_S)

    def _kept(self) -> Connection | None:
        while self._idle:
            if not (connection := self._idle.pop()).closed:
                return connection
        return None

    async def _connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self._order.port))


def post(body: bytes, signature: str | None, *headers: str) -> bytes:
    """Write a delivery; None: without a signature."""
    return post_head(len(body), signature, *headers) + body


def post_head(length: int, signature: str | None, *headers: str) -> bytes:
    """Write the head of a delivery."""
    lines = ["POST /webhooks/fynd HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    lines += [] if signature is None else [f"{HEADER}: {signature}"]
    return "\r\n".join([*lines, "", ""]).encode()


def get(path: str, token: str, *headers: str) -> bytes:
    """Write a question."""
    lines = (f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *headers)
    return "\r\n".join([*lines, "", ""]).encode()


async def prepare(service: Service, secret: str) -> None:
    """Bring the users who will be asked for."""
    for number in range(USERS):
        await service.post(delivery(f"honest-{number}", "create"), secret)
    last = f"/v1/applications/{APP}/users/honest-{USERS - 1}"

    async def known() -> bool:
        return (await service.get(last)).status == 200

    await until(known)


def main() -> None:
    """Obey orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever gives the orders ends this process
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)  # as if it were on a machine of its own
    for line in sys.stdin.buffer:
        report = uvloop.run(Honest(msgspec.json.decode(line, type=Order)).run())
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
