"""How cost grows with the log: append, a moment in the past, rebuild, bytes an event.

    python benchmarks/growth.py --sizes 100000 1000000 10000000

A database for each size, all on one server; appends and questions are measured in alternating
rounds, and beside them the limit: rows of the same log, with the same indexes, copied as many at
once as there are callers, by one connection. The last size is compared with the first.
10,000,000 takes more than an hour: it is run by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
from common import (
    MASTER_KEY,
    Aim,
    Found,
    Options,
    Round,
    alternate,
    closed_loop,
    copy_rounds,
    middle,
    run,
    server,
    userlog_in,
)
from data import APPLICATION, START_MS, STEP_MS, Shape, deliveries, events_of, fill, user_id

from projections.deliveries.values import read_time
from projections.rebuild.log_source import LogSource
from projections.rebuild.rebuild import Plan, rebuild

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from common import Server, Userlog


CALLERS = 64
_EVENTS_OF_A_USER = 5
_RATE_MAX = 20_000
_COPIED_MAX = 80_000
# A tree that grows by itself is filled to about 70 percent where its keys come in any order.
_BARE = """
CREATE TABLE bare (LIKE userlog.events);
ALTER TABLE bare SET (autovacuum_enabled = off);
INSERT INTO bare SELECT * FROM userlog.events;
CREATE UNIQUE INDEX ON bare (partition, position);
CREATE INDEX ON bare (partition, stream_id, occurred_at, position) WITH (fillfactor = 70);
CREATE UNIQUE INDEX ON bare (partition, identity);
"""
_LAST = "SELECT * FROM bare WHERE partition = 0 ORDER BY position DESC LIMIT 1"
_BYTES = """
SELECT pg_total_relation_size('userlog.events') + pg_total_relation_size('userlog.streams')
"""


class Sized(NamedTuple):
    """A log of a size."""

    opened: Userlog
    shape: Shape
    bytes_per_event: float

    async def append(self, seconds: float, seeds: Iterator[int]) -> Round:
        """Append one event a call, of users who are there."""
        made = deliveries(Shape(sys.maxsize, self.shape.users, next(seeds)))
        # The users' first deliveries are there already, and later ones come later.
        late = itertools.islice(made, self.shape.users, self.shape.users + int(seconds * _RATE_MAX))
        waiting = [events_of(body) for body in late]

        async def one() -> None:
            if not waiting:
                raise StopAsyncIteration
            await self.opened.log.append(waiting.pop())

        return await closed_loop(one, CALLERS, seconds)

    async def copy(self, seconds: float, seeds: Iterator[int]) -> Round:
        """Copy rows like the log's to the table beside it, as many a transaction as callers."""
        chance = random.Random(next(seeds))
        connection = await asyncpg.connect(self.opened.url)
        (last,) = await connection.fetch(_LAST)
        await connection.close()
        like = dict(last)

        def fresh(position: int) -> list[Any]:
            user = user_id(chance.randrange(self.shape.users))
            return list(
                {
                    **like,
                    "position": position,
                    "stream_id": self.opened.log.stream(APPLICATION, user).stream_id,
                    "identity": like["identity"][:4] + os.urandom(12),  # of the same minute
                }.values()
            )

        made = map(fresh, itertools.count(like["position"] + 1))
        count = int(seconds * _COPIED_MAX) // CALLERS
        batches = [list(itertools.islice(made, CALLERS)) for _ in range(count)]
        return await copy_rounds(self.opened.url, "bare", list(like), reversed(batches), seconds)

    async def ask(self, seconds: float) -> Round:
        """Ask who some user was in the middle of it all."""
        chance = random.Random(5)
        middle_of_all = read_time(START_MS + self.shape.events // 2 * STEP_MS)

        async def one() -> None:
            user = user_id(chance.randrange(self.shape.users))
            stream = self.opened.log.stream(APPLICATION, user)
            await self.opened.read_model.user(stream, middle_of_all, None)

        return await closed_loop(one, 1, seconds)


async def open_sized(stack: contextlib.AsyncExitStack, running: Server, events: int) -> Sized:
    """Make a database, and a log of that size in it."""
    connection = await asyncpg.connect(running.url)
    await connection.execute(f"CREATE DATABASE size_{events}")
    await connection.close()
    url = running.url.replace("/postgres?", f"/size_{events}?")
    opened = await stack.enter_async_context(userlog_in(url))
    shape = Shape(events, events // _EVENTS_OF_A_USER)
    await fill(opened.log, shape)
    connection = await asyncpg.connect(url)
    size = await connection.fetchval(_BYTES)
    await connection.execute(_BARE)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    return Sized(opened, shape, size / events)


async def rebuild_rate(one: Sized, workers: int) -> float:
    """Rebuild what nobody has projected, and prove it by the log."""
    began = time.perf_counter()
    plan = Plan(workers, behind_max=0)
    built = await rebuild(LogSource(one.opened.url, MASTER_KEY, None, 60), plan)
    assert not built.proof.differing
    return one.shape.events / (time.perf_counter() - began)


async def settle(running: Server) -> None:
    """Let the disk have what filling has left to be written, which would slow down what follows."""
    connection = await asyncpg.connect(running.url)
    await connection.execute("CHECKPOINT")
    await connection.close()
    await asyncio.to_thread(os.sync)


async def measure(args: argparse.Namespace) -> Found:
    """Fill all sizes, then measure them beside each other."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(server())
        sized = [await open_sized(stack, running, events) for events in args.sizes]
        rebuilds = {
            one.shape.events: await rebuild_rate(one, args.workers) for one in sized if args.workers
        }
        subjects: dict[str, Any] = {}
        seeds = itertools.count(100)
        for one in sized:
            subjects[f"append, {one.shape.events}"] = partial(one.append, args.seconds, seeds)
            subjects[f"copy, {one.shape.events}"] = partial(one.copy, args.seconds, seeds)
            subjects[f"ask, {one.shape.events}"] = partial(one.ask, args.seconds)
        await settle(running)
        rounds = await alternate(subjects, args.rounds)
    found = {name: middle(measured) for name, measured in rounds.items()}
    numbers = {
        one.shape.events: {
            "append_per_s": found[f"append, {one.shape.events}"].rate,
            "bare_rows_per_s": found[f"copy, {one.shape.events}"].rate,
            "point_in_time_p50_ms": found[f"ask, {one.shape.events}"].p50_ms,
            "rebuild_per_s": rebuilds.get(one.shape.events),
            "bytes_per_event": one.bytes_per_event,
        }
        for one in sized
    }
    first, last = (found[f"append, {events}"].rate for events in (args.sizes[0], args.sizes[-1]))
    what = f"append at {args.sizes[-1]:,} events / at {args.sizes[0]:,}"
    return Found("growth", {str(k): v for k, v in numbers.items()}, [Aim(what, last, first, 0.85)])


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    options.add_argument("--workers", type=int, default=2, help="processes of the rebuild; 0: none")
    given = options.given()
    if given.smoke:
        given.sizes = [1_000, 5_000]
    run(measure(given), json=given.json)
