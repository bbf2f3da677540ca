"""Rebuilding the read models from the log, with its proof, beside loops that do less.

Ours writes users, history, numbers by day and search terms, each into a table with its indexes, and
compares them with those that answer. `by hand` reads the plain table and keeps the latest state of
each user in Python, and nothing else. `eventsourcing` keeps the same latest state in a table, by a
ProjectionRunner; as it is slow, of fewer events. `copy` is what reading the log costs alone.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import asyncpg
from common import MASTER_KEY, Aim, Found, Options, alternate, run, server, userlog_in
from data import Shape, deliveries, fill
from eventsourcing_app import Customers, project
from eventsourcing_rival import environment
from plain import COLUMNS, TABLE, merged, row

from projections.project.projector import catch_up
from projections.rebuild.log_source import LogSource
from projections.rebuild.rebuild import Plan, rebuild

if TYPE_CHECKING:
    import argparse

    from common import Server

_BATCH = 500
_EVENTS_OF_A_USER = 5
_ALL = "SELECT application_id, user_id, occurred_at, payload FROM plain ORDER BY id"


class Rates:
    """Each subject goes through everything there is, and returns how many events a second."""

    def __init__(self, running: Server, events: int, workers: int) -> None:
        """The log, the plain table and the customers must be there."""
        self._running = running
        self._events = events
        self._workers = workers

    async def ours(self) -> float:
        """Rebuild and prove; what is built is loaded, indexed and compared with what answers."""
        began = time.perf_counter()
        built = await rebuild(
            LogSource(self._running.url, MASTER_KEY, None, 60), Plan(self._workers)
        )
        assert not built.proof.differing
        return self._events / (time.perf_counter() - began)

    async def by_hand(self) -> float:
        """Keep the latest state of each user in Python."""
        began = time.perf_counter()
        connection = await asyncpg.connect(self._running.url)
        states: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
        async with connection.transaction():
            async for application_id, user_id, occurred_at, body in connection.cursor(
                _ALL, prefetch=1_000
            ):
                newest, state = states.get((application_id, user_id), (occurred_at, {}))
                if occurred_at >= newest:
                    states[application_id, user_id] = occurred_at, merged(state, body)
        await connection.close()
        return self._events / (time.perf_counter() - began)

    async def copy(self) -> float:
        """Read the whole log as PostgreSQL can at its fastest."""
        began = time.perf_counter()
        connection = await asyncpg.connect(self._running.url)
        await connection.copy_from_table(
            "events", schema_name="userlog", format="binary", output=_nowhere
        )
        await connection.close()
        return self._events / (time.perf_counter() - began)

    async def eventsourcing(self, settings: dict[str, str], events: int, until: int) -> float:
        """Project from the beginning."""
        began = time.perf_counter()
        await asyncio.to_thread(project, settings, until)
        return events / (time.perf_counter() - began)


async def _nowhere(_data: bytes) -> None:
    return


def customers(settings: dict[str, str], shape: Shape) -> int:
    """Give the rival as many users with their deliveries; return the number of the last event."""
    bodies = [body.decode() for body in deliveries(shape)]
    with Customers(env=settings) as application:
        for start in range(0, len(bodies), _EVENTS_OF_A_USER):
            application.add(bodies[start : start + _EVENTS_OF_A_USER])
        return application.recorder.max_notification_id() or 0


async def measure(args: argparse.Namespace) -> Found:
    """Measure all in alternating rounds."""
    shape = Shape(args.events, args.events // _EVENTS_OF_A_USER)
    fewer = Shape(args.rival_events, args.rival_events // _EVENTS_OF_A_USER)
    async with server() as running, userlog_in(running.url) as opened:
        await fill(opened.log, shape)
        await catch_up(opened.log, _BATCH)
        connection = await asyncpg.connect(running.url)
        await connection.execute(TABLE)
        rows = [row(body) for body in deliveries(shape)]
        await connection.copy_records_to_table("plain", records=rows, columns=COLUMNS)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()
        settings = environment(running, 4)
        until = await asyncio.to_thread(customers, settings, fewer)
        rates = Rates(running, shape.events, args.workers)
        subjects = {
            "ours": rates.ours,
            "by hand": rates.by_hand,
            "copy": rates.copy,
            "eventsourcing": lambda: rates.eventsourcing(settings, fewer.events, until),
        }
        rounds = await alternate(subjects, args.rounds)
    found = {name: median(measured) for name, measured in rounds.items()}
    numbers = {"events": shape.events, "users": shape.users, "workers": args.workers, **found}
    ours = found["ours"]
    return Found(
        "rebuild",
        numbers,
        [
            Aim(
                "rebuild, proof included / by hand, latest state only", ours, found["by hand"], 1.5
            ),
            Aim("rebuild / binary COPY of the log to stdout", ours, found["copy"], 0.05),
            Aim("rebuild / eventsourcing ProjectionRunner", ours, found["eventsourcing"], 30),
        ],
    )


if __name__ == "__main__":
    options = Options(__doc__)
    options.set_defaults(rounds=3)
    options.add_argument("--events", type=int, default=60_000)
    options.add_argument("--rival-events", type=int, default=3_000)
    options.add_argument("--workers", type=int, default=2, help="processes of the rebuild")
    given = options.given()
    if given.smoke:
        given.events, given.rival_events = 3_000, 300
    run(measure(given), json=given.json)
