"""How cost grows with the log: append, a moment in the past, rebuild, bytes an event.

    python benchmarks/growth.py --sizes 100000 1000000 10000000

A database for each size, all on one server; appends and questions are measured in alternating
rounds. The last size is compared with the first. 10,000,000 takes hours: it is run by hand.
"""

from __future__ import annotations

import contextlib
import itertools
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
    middle,
    run,
    server,
    userlog_in,
)
from data import APPLICATION, START_MS, STEP_MS, Shape, deliveries, events_of, fill, user_id

from projections.deliveries import moment
from projections.rebuild import Plan, rebuild
from projections.source import Source

if TYPE_CHECKING:
    import argparse

    from common import Server, Userlog


CALLERS = 64
_EVENTS_OF_A_USER = 5
_RATE_MAX = 20_000
_BYTES = """
SELECT pg_total_relation_size('userlog.events') + pg_total_relation_size('userlog.streams')
"""


class Sized(NamedTuple):
    """A log of a size."""

    opened: Userlog
    shape: Shape
    bytes_per_event: float

    async def append(self, seconds: float, seed: int) -> Round:
        """Append one event a call, of users who are there."""
        made = deliveries(Shape(sys.maxsize, self.shape.users, seed))
        # The users' first deliveries are there already, and later ones come later.
        late = itertools.islice(made, self.shape.users, self.shape.users + int(seconds * _RATE_MAX))
        waiting = [events_of(body) for body in late]

        async def one() -> None:
            if not waiting:
                raise StopAsyncIteration
            await self.opened.log.append(waiting.pop())

        return await closed_loop(one, CALLERS, seconds)

    async def ask(self, seconds: float) -> Round:
        """Ask who some user was in the middle of it all."""
        chance = random.Random(5)
        middle_of_all = moment(START_MS + self.shape.events // 2 * STEP_MS)

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
    await connection.execute("VACUUM ANALYZE")
    size = await connection.fetchval(_BYTES)
    await connection.close()
    return Sized(opened, shape, size / events)


async def rebuild_rate(one: Sized, workers: int) -> float:
    """Rebuild what nobody has projected, and prove it by the log."""
    began = time.perf_counter()
    plan = Plan(workers, behind_max=0)
    built = await rebuild(Source(one.opened.url, MASTER_KEY, None, 60), plan)
    assert not built.proof.differing
    return one.shape.events / (time.perf_counter() - began)


async def measure(args: argparse.Namespace) -> Found:
    """Fill all sizes, then measure them beside each other."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(server())
        sized = [await open_sized(stack, running, events) for events in args.sizes]
        rebuilds = {one.shape.events: await rebuild_rate(one, args.workers) for one in sized}
        subjects: dict[str, Any] = {}
        seeds = itertools.count(100)
        for one in sized:
            subjects[f"append, {one.shape.events}"] = partial(_append, one, args.seconds, seeds)
            subjects[f"ask, {one.shape.events}"] = partial(one.ask, args.seconds)
        rounds = await alternate(subjects, args.rounds)
    found = {name: middle(measured) for name, measured in rounds.items()}
    numbers = {
        one.shape.events: {
            "append_per_s": found[f"append, {one.shape.events}"].rate,
            "point_in_time_p50_ms": found[f"ask, {one.shape.events}"].p50_ms,
            "rebuild_per_s": rebuilds[one.shape.events],
            "bytes_per_event": one.bytes_per_event,
        }
        for one in sized
    }
    first, last = (numbers[events]["append_per_s"] for events in (args.sizes[0], args.sizes[-1]))
    what = f"append at {args.sizes[-1]:.0e} events / at {args.sizes[0]:.0e}"
    return Found("growth", {str(k): v for k, v in numbers.items()}, [Aim(what, last, first, 0.85)])


async def _append(one: Sized, seconds: float, seeds: itertools.count[int]) -> Round:
    return await one.append(seconds, next(seeds))


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    options.add_argument("--workers", type=int, default=2, help="processes of the rebuild")
    given = options.given()
    if given.smoke:
        given.sizes = [1_000, 5_000]
    run(measure(given), json=given.json)
