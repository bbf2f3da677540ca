"""Appending one event a call, durable when the call returns, beside what people would pick instead.

Ours seals each event with its user's key, notices duplicates, numbers without gaps and chains by
hash; what the rivals do is said in plain.py and
eventsourcing_rival.py. `copy` is the limit: rows like ours, in batches of
1,000, by one connection's binary COPY, which can do none of that.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
from common import (
    Aim,
    Found,
    Options,
    Round,
    alternate,
    closed_loop,
    copy_rounds,
    middle,
    open_plain_pool,
    run,
    server,
    userlog_in,
)
from data import Shape, deliveries, events_of, fill
from eventsourcing_rival import USERS, EventSourcing, best_threads
from plain import TABLE, Plain, best_pool, row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator

    from common import Server, Userlog

CALLERS = (1, 8, 64, 512)
COPIED_AT_ONCE = 1_000
_COPY_TABLE = "CREATE TABLE copied (LIKE userlog.events INCLUDING ALL)"
_LIKE_OURS = "SELECT * FROM userlog.events LIMIT 1000"


class Supply:
    """Deliveries made before a round begins, so that making them is not measured."""

    def __init__(self, users: int, rate_max: int) -> None:
        """No subject takes more than `rate_max` a second."""
        self._made = deliveries(Shape(sys.maxsize, users, seed=2))
        for _ in range(users):  # the users are there already
            next(self._made)
        self._rate_max = rate_max

    def bodies(self, seconds: float) -> list[bytes]:
        """Make as many as one round can take."""
        return list(itertools.islice(self._made, max(100, int(seconds * self._rate_max))))


async def take(waiting: list[Any], append: Callable[[Any], Awaitable[Any]]) -> None:
    """Append the next one; nothing left ends its caller."""
    if not waiting:
        raise StopAsyncIteration
    await append(waiting.pop())


class Subjects:
    """What is measured; each makes what it will append before it begins."""

    def __init__(self, opened: Userlog, supply: Supply, seconds: float) -> None:
        """All append in the same database, to tables of their own."""
        self._opened = opened
        self._supply = supply
        self._seconds = seconds

    async def ours(self, callers: int) -> Round:
        """Append to the log."""
        events = [events_of(body) for body in self._supply.bodies(self._seconds)]
        return await closed_loop(
            lambda: take(events, self._opened.log.append), callers, self._seconds
        )

    async def plain(self, callers: int, connections: int) -> Round:
        """Insert into a table."""
        rows = [row(body) for body in self._supply.bodies(self._seconds)]
        pool = await open_plain_pool(self._opened.url, min(callers, connections))
        plain = Plain(pool)
        found = await closed_loop(lambda: take(rows, plain.append), callers, self._seconds)
        await pool.close()
        return found

    async def eventsourcing(self, rival: EventSourcing) -> Round:
        """Insert by its recorder."""
        bodies = self._supply.bodies(self._seconds)
        return await asyncio.to_thread(rival.round, bodies, self._seconds)

    async def copy(self, rows: list[asyncpg.Record], numbers: Iterator[int]) -> Round:
        """Copy batches of rows like ours, each a transaction, on one connection."""
        names = list(rows[0].keys())
        place = names.index("position"), names.index("identity")

        def fresh(one: asyncpg.Record) -> list[Any]:
            values = list(one.values())
            values[place[0]] = next(numbers)
            values[place[1]] = values[place[1]][:4] + os.urandom(12)  # of the same minutes
            return values

        batches = [[fresh(one) for one in rows] for _ in range(max(2, int(150 * self._seconds)))]
        return await copy_rounds(self._opened.url, "copied", names, batches, self._seconds)


async def measure(args: argparse.Namespace) -> Found:
    """Measure all subjects in alternating rounds."""
    async with server() as running, userlog_in(running.url) as opened:
        supply = Supply(USERS, 40_000)
        await fill(opened.log, Shape(USERS, USERS, seed=2))
        connection = await asyncpg.connect(running.url)
        await connection.execute(TABLE)
        await connection.execute(_COPY_TABLE)
        rows = await connection.fetch(_LIKE_OURS)
        await connection.close()
        subjects = Subjects(opened, supply, args.seconds)
        connections, threads = await calibrate(running, supply, args.seconds / 2)
        rival = EventSourcing(running, threads)
        numbers = itertools.count(1)
        made: dict[str, Callable[[], Awaitable[Round]]] = {}
        for callers in CALLERS:
            made[f"ours, {callers}"] = partial(subjects.ours, callers)
            made[f"plain INSERT, {callers}"] = partial(subjects.plain, callers, connections)
        made["eventsourcing"] = partial(subjects.eventsourcing, rival)
        made["copy"] = partial(subjects.copy, rows, numbers)
        rounds = await alternate(made, args.rounds)
        rival.close()
    found = {name: middle(measured) for name, measured in rounds.items()}
    numbers_found = {"connections": connections, "threads": threads, "subjects": found}
    return Found("append", numbers_found, aims(found))


async def calibrate(running: Server, supply: Supply, seconds: float) -> tuple[int, int]:
    """Find at how many connections and threads the rivals are at their best."""
    bodies = supply.bodies(5 * seconds)
    rows = itertools.cycle([row(body) for body in bodies])
    connections = await best_pool(running, lambda: next(rows), seconds)
    return connections, await asyncio.to_thread(best_threads, running, bodies, seconds)


def aims(found: dict[str, Round]) -> list[Aim]:
    """Set what was found beside what is aimed at."""
    ours, plain = found["ours, 64"].rate, found["plain INSERT, 64"].rate
    one, plain_one = found["ours, 1"].p50_ms, found["plain INSERT, 1"].p50_ms
    return [
        Aim("append at 64 callers / plain INSERT", ours, plain, 4),
        Aim("append at 64 callers / eventsourcing recorder", ours, found["eventsourcing"].rate, 10),
        Aim(
            "append at 512 callers / binary COPY", found["ours, 512"].rate, found["copy"].rate, 0.3
        ),
        Aim("append at 1 caller, p50 / plain INSERT", one, plain_one, 1.3, at_most=True, unit="ms"),
    ]


if __name__ == "__main__":
    given = Options(__doc__).given()
    run(measure(given), json=given.json)
