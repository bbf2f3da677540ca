"""How far a rebuild has come, read from the database, so that any process can show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.query.formats import Time, rfc3339

if TYPE_CHECKING:
    import asyncpg

    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection

_SQL = statements.load("projections.rebuild")


class Progress(msgspec.Struct, frozen=True):
    """An unfinished rebuild: its phase, and what is loaded.

    The rate is that since it was started or resumed, and the time left that to load the rest at
    this rate; None while neither is known.
    """

    generation: int
    version: str
    phase: str
    started_at: Time
    shards: int
    shards_done: int
    events: int
    events_total: int
    users: int
    events_per_s: int | None
    eta_s: float | None


async def read(source: Pool | Connection) -> Progress | None:
    """Read how far the unfinished rebuild is; None if there is none."""
    with database_errors():
        row = await source.fetchrow(_SQL["status_rebuild"])
    return None if row is None else _progress(row)


def _progress(row: asyncpg.Record) -> Progress:
    rate = _rate(row)
    left = row["events_total"] - row["events"]
    building = row["phase"] == "building"
    return Progress(
        generation=row["generation"],
        version=row["version"] or "",
        phase=row["phase"],
        started_at=rfc3339(row["started_at"]),
        shards=row["shards"],
        shards_done=row["shards_done"],
        events=row["events"],
        events_total=row["events_total"],
        users=row["users"],
        events_per_s=round(rate) if rate else None,
        eta_s=round(left / rate, 1) if rate and building else None,
    )


def _rate(row: asyncpg.Record) -> float | None:
    """Return how many events a second have been loaded lately."""
    if not row["events_lately"]:
        return None
    took_s: float = (row["last_done_at"] - row["started_at"]).total_seconds()
    return row["events_lately"] / took_s if took_s > 0 else None
