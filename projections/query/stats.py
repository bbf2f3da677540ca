"""Numbers of an application by day: who was new, deleted, blocked, and how many were active."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.numbers import COLUMNS

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool

_SQL = statements.load("projections.query")


class Day(msgspec.Struct, frozen=True):
    """What happened on a day in UTC, and how many users were active at its end.

    `reactivated` counts who was unblocked or restored.
    """

    date: date
    created: int
    deleted: int
    blocked: int
    reactivated: int
    active: int
    events: int


async def days_of(
    pool: Pool, partitions: int, application_id: str, first: date, last: date
) -> list[Day]:
    """Return every day from first to last, both included; none if nothing is known by then."""
    if "\0" in application_id:  # which no text in the database can hold
        return []
    args = (list(range(partitions)), application_id, first, last)
    with database_errors():
        rows = await pool.fetch(_SQL["numbers"], *args)
    if not rows:
        return []
    known = {row["day"]: row for row in rows}
    before = known.get(None)  # all that was before
    active = before["active"] if before else 0
    found: list[Day] = []
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        day = date.fromordinal(ordinal)
        row = known.get(day)
        numbers = {name: row[name] if row else 0 for name in COLUMNS}
        active = numbers["active"] = active + numbers["active"]
        found.append(Day(day, **numbers))
    return found
