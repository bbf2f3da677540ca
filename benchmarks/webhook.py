"""Deliveries over HTTP, verified and durable before the answer, beside a handler written by hand.

The sender is another process on the same machine. Ours is `userlog serve` as it is, its projector
included; while a rival is measured, it has nothing left to do. The limit is the server itself: the
same aiohttp and uvloop, which answers when it has verified and decoded, or only read, a body.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
from common import Aim, Found, Options, Round, alternate, middle, run, server, userlog_in
from load import Order, Sender
from plain import TABLE
from services import handwritten_service, userlog_service

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

CONNECTIONS = (32, 128)
POOLS = (8, 16, 32)
_BEHIND = """
SELECT max(h.position - c.position)
FROM userlog.log_head h JOIN userlog.checkpoints c USING (partition)
"""


class Served:
    """The services under load, by name: port and path."""

    def __init__(self, sender: Sender, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """`connection` tells when the projector has nothing left to do."""
        self._sender = sender
        self._connection = connection

    async def round(self, port: int, path: str, connections: int, seconds: float) -> Round:
        """Send as many deliveries as are answered."""
        report = await self._sender.send(Order(port, path, connections, seconds))
        while await self._connection.fetchval(_BEHIND):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
        return report.round


async def measure(args: argparse.Namespace) -> Found:
    """Measure all services in alternating rounds."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(server())
        await stack.enter_async_context(userlog_in(running.url))
        connection = await asyncpg.connect(running.url)
        stack.push_async_callback(connection.close)
        await connection.execute(TABLE)
        sender = await Sender.start()
        stack.push_async_callback(sender.stop)
        ours = await stack.enter_async_context(userlog_service(running.url, args.workers))
        served = Served(sender, connection)
        rates: dict[int, float] = {}
        for size in POOLS:
            async with handwritten_service(running.url, size) as port:
                rates[size] = (await served.round(port, "/insert", 128, args.seconds)).rate
        pool = max(rates, key=rates.__getitem__)
        by_hand = await stack.enter_async_context(handwritten_service(running.url, pool))
        places = {
            "ours": (ours, "/webhooks/fynd"),
            "hand-written": (by_hand, "/insert"),
            "verified and decoded": (by_hand, "/verified"),
            "body read": (by_hand, "/read"),
        }
        subjects: dict[str, Callable[[], Awaitable[Round]]] = {
            f"{name}, {connections}": partial(served.round, port, path, connections, args.seconds)
            for name, (port, path) in places.items()
            for connections in CONNECTIONS
        }
        rounds = await alternate(subjects, args.rounds)
    found = {name: middle(measured) for name, measured in rounds.items()}
    return Found("webhook", {"workers": args.workers, "pool": pool, "subjects": found}, aims(found))


def aims(found: dict[str, Round]) -> list[Aim]:
    """Set what was found beside what is aimed at; each is taken where it is best."""
    few, many = CONNECTIONS
    best = {
        name: max(found[f"{name}, {few}"].rate, found[f"{name}, {many}"].rate)
        for name in ("ours", "hand-written", "verified and decoded")
    }
    ours, by_hand = found[f"ours, {few}"].p99_ms, found[f"hand-written, {few}"].p99_ms
    decoded = best["verified and decoded"]
    return [
        Aim("webhook requests / the same server verifying, decoding", best["ours"], decoded, 0.5),
        Aim("webhook requests / hand-written handler", best["ours"], best["hand-written"], 2),
        Aim(
            "webhook p99 at 32 connections / hand-written",
            ours,
            by_hand,
            0.5,
            at_most=True,
            unit="ms",
        ),
    ]


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--workers", type=int, default=1, help="processes of `userlog serve`")
    given = options.given()
    run(measure(given), json=given.json)
