"""How many bytes an event occupies: the log and each read model, indexes included, and the WAL.

PYTHONPATH=. python benchmarks/size.py --events 200000 --users 40000
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
from common import show, userlog
from data import Shape, fill

from projections.projector import catch_up

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH = 500
_SIZES = """
SELECT regexp_replace(c.relname, '_g\\d+$', '') AS name,
    sum(pg_total_relation_size(c.oid))::bigint AS size
FROM pg_class c WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind = 'r'
GROUP BY 1 HAVING sum(pg_total_relation_size(c.oid)) > 1000000 ORDER BY 2 DESC
"""
_WAL = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"


async def measure(shape: Shape) -> dict[str, Any]:
    """Fill a log, project it, and weigh the tables."""
    async with userlog() as subject:
        connection = await asyncpg.connect(subject.url)
        wal = [await connection.fetchval(_WAL)]
        await fill(subject.log, shape)
        wal.append(await connection.fetchval(_WAL))
        await catch_up(subject.log, _BATCH)
        wal.append(await connection.fetchval(_WAL))
        await connection.execute("VACUUM")
        rows = await connection.fetch(_SIZES)
        await connection.close()
    sizes = {row["name"]: round(row["size"] / shape.events, 1) for row in rows}
    written = [round(float(b - a) / shape.events) for a, b in pairwise(wal)]
    return {
        "events": shape.events,
        "users": shape.users,
        "bytes_per_event": {**sizes, "all": round(sum(sizes.values()), 1)},
        "wal_bytes_per_event": {"append": written[0], "project": written[1]},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    result = asyncio.run(measure(Shape(given.events, given.users)))
    lines = [
        f"{name:>12} {size:>8} bytes an event" for name, size in result["bytes_per_event"].items()
    ]
    lines += [
        f"{name:>12} {size:>8} bytes of WAL" for name, size in result["wal_bytes_per_event"].items()
    ]
    show(result, lines, json=given.json)


if __name__ == "__main__":
    main()
