"""How many bytes an event occupies on disk: tables and indexes of the log, read models, and WAL.

Beside it the plain table with the same deliveries as JSON, which holds neither keys nor hashes. The
users' keys are part of the log; how many events each user has is said with the result.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import asyncpg
from common import Aim, Found, Options, run, userlog
from data import Shape, deliveries, fill
from plain import COLUMNS, TABLE, row

from projections.project.projector import catch_up

if TYPE_CHECKING:
    import argparse

_BATCH = 500
_LOG = ("events", "streams", "log_head")
SIZES = """
SELECT regexp_replace(c.relname, '_g\\d+$', '') AS name,
    sum(pg_total_relation_size(c.oid))::bigint AS size
FROM pg_class c WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind = 'r' GROUP BY 1
"""
# As far as was inserted: what is committed without waiting may not be written yet.
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


async def measure(args: argparse.Namespace) -> Found:
    """Fill a log and the plain table, project, and weigh."""
    shape = Shape(args.events, args.users)
    async with userlog() as subject:
        connection = await asyncpg.connect(subject.url)
        wal = [await connection.fetchval(WAL)]
        await fill(subject.log, shape)
        wal.append(await connection.fetchval(WAL))
        await catch_up(subject.log, _BATCH)
        wal.append(await connection.fetchval(WAL))
        await connection.execute(TABLE)
        rows = [row(body) for body in deliveries(shape)]
        await connection.copy_records_to_table("plain", records=rows, columns=COLUMNS)
        await connection.execute("VACUUM")
        found = await connection.fetch(SIZES)
        plain = await connection.fetchval("SELECT pg_total_relation_size('plain')")
        await connection.close()
    sizes = {one["name"]: round(one["size"] / shape.events, 1) for one in found}
    log, plain = sum(sizes[name] for name in _LOG), plain / shape.events
    written = [round(float(b - a) / shape.events) for a, b in pairwise(wal)]
    numbers = {
        "events": shape.events,
        "users": shape.users,
        "bytes_per_event": {name: size for name, size in sizes.items() if size >= 1},
        "log_bytes_per_event": round(log, 1),
        "plain_bytes_per_event": round(plain, 1),
        "wal_bytes_per_event": {"append": written[0], "project": written[1]},
    }
    aim = Aim("bytes per event / plain JSON table", log, plain, 0.4, at_most=True, unit="B")
    return Found("storage", numbers, [aim])


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--users", type=int, default=40_000)
    given = options.given()
    if given.smoke:
        given.events, given.users = 5_000, 1_000
    run(measure(given), json=given.json)
