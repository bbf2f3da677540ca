"""How long after its acknowledgement an event is in the read models, at half the maximum rate.

The maximum is what the service takes while it projects. At half of that, deliveries besides are
sent one by one, and the checkpoint is asked again and again until it has passed their positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import asyncpg
from common import Aim, Found, Options, Round, run, server, userlog_in
from data import Shape, deliveries
from load import SECRET, Order, Sender
from services import userlog_service

from api.webhook.verify import HEADER, sign

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

CONNECTIONS = 64
AIM_MS = 100
_PAUSE_S = 0.05
_BETWEEN_S = 0.001
_PATH = "/webhooks/fynd"
_DONE = "SELECT min(position) FROM userlog.checkpoints"
_HEAD = "SELECT max(position) FROM userlog.log_head"


class Probe:
    """Sends a delivery now and then, and waits until it is in the read models."""

    def __init__(self, port: int, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Its users are none of the load's."""
        self._url = f"http://127.0.0.1:{port}{_PATH}"
        self._connection = connection
        self._bodies: Iterator[bytes] = deliveries(Shape(sys.maxsize, 1_000_000, seed=9))
        self.seconds: list[float] = []

    async def run(self) -> None:
        """Go on until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                body = next(self._bodies)
                signed = {HEADER: sign(body, SECRET)}
                async with session.post(self._url, data=body, headers=signed) as response:
                    position = int((await response.json())["positions"][0].partition(":")[2])
                began = time.perf_counter()
                while await self._connection.fetchval(_DONE) < position:  # noqa: ASYNC110 - another's
                    await asyncio.sleep(_BETWEEN_S)
                self.seconds.append(time.perf_counter() - began)
                await asyncio.sleep(_PAUSE_S)


async def caught_up(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait until all is in the read models."""
    last = await connection.fetchval(_HEAD)
    while await connection.fetchval(_DONE) < last:  # noqa: ASYNC110 - another process's work
        await asyncio.sleep(_PAUSE_S)


async def measure(args: argparse.Namespace) -> Found:
    """Find the maximum, send half of it, and probe."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(server())
        await stack.enter_async_context(userlog_in(running.url))
        connection = await asyncpg.connect(running.url)
        stack.push_async_callback(connection.close)
        sender = await Sender.start()
        stack.push_async_callback(sender.stop)
        port = await stack.enter_async_context(userlog_service(running.url, args.workers))
        seconds = args.seconds * args.rounds
        await sender.send(Order(port, _PATH, CONNECTIONS, args.seconds))  # the first of all users
        await caught_up(connection)
        most = (await sender.send(Order(port, _PATH, CONNECTIONS, seconds))).round.rate
        await caught_up(connection)
        probe = Probe(port, connection)
        probing = asyncio.create_task(probe.run())
        half = Order(port, _PATH, CONNECTIONS, 2 * seconds, rate=most / 2)
        sent = await sender.send(half)
        probing.cancel()
        await asyncio.wait([probing])
        if not probing.cancelled():
            probing.result()
    lag = Round.of(probe.seconds, 2 * seconds)
    numbers = {
        "rate_max": most,
        "rate": sent.round.rate,
        "probes": len(probe.seconds),
        "p50_ms": lag.p50_ms,
        "p99_ms": lag.p99_ms,
    }
    aim = Aim(
        "lag p99 at half the maximum rate / 100 ms", lag.p99_ms, AIM_MS, 1, unit="ms", at_most=True
    )
    return Found("lag", numbers, [aim])


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--workers", type=int, default=1, help="processes of `userlog serve`")
    given = options.given()
    run(measure(given), json=given.json)
