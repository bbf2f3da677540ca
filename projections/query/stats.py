"""Numbers of an application by day: who was new, deleted, blocked, and how many were active."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool

_SQL = statements.load("projections.query")


class Day(msgspec.Struct, frozen=True):
    """What happened on a day in UTC, and how many users were active at its end."""

    date: date
    created: int
    deleted: int
    blocked: int
    active: int


async def days_of(
    pool: Pool, partitions: int, application_id: str, first: date, last: date
) -> list[Day]:
    """Return every day from first to last, both included; none if nothing is known by then."""
    if "\0" in application_id:  # which no text in the database can hold
        return []
    args = (list(range(partitions)), application_id, first, last)
    with database_errors():
        rows = await pool.fetch(_SQL["activity"], *args)
    if not rows:
        return []
    counted = {row["day"]: (row["created"], row["deleted"], row["blocked"]) for row in rows}
    steps = {row["day"]: row["active"] for row in rows}
    active = steps.get(None, 0)  # the row without a day is all that was before
    found: list[Day] = []
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        day = date.fromordinal(ordinal)
        active += steps.get(day, 0)
        found.append(Day(day, *counted.get(day, (0, 0, 0)), active))
    return found
