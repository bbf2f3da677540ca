"""A user at a moment: their events read from the log backwards, only as far as they matter.

Which fields there are to look for is taken from the user's row in the read model, if it has all
their events; then a user with a long history of full snapshots costs no more than one with a
short one. Without it, everything is read. The values always come from the log.
"""

from __future__ import annotations

from contextlib import aclosing
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.events import CLOCK_AHEAD_MAX
from eventstore.postgres import statements
from projections.fold.folder import Folder
from projections.fold.state import Recall, UserState, names_by
from projections.sealed import open_user

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    import asyncpg

    from eventstore.events import Stream
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from eventstore.sealing.columns import ColumnKey
    from projections.fold.events import Fields

_SQL = statements.load("projections.query")
_PAGE_ROWS_FIRST = 2
_PAGE_ROWS_MAX = 2_048
_PAGE_GROWTH = 8
_LAST_POSITION = 2**63 - 1


async def state_at(
    log: EventLog, pool: Pool, stream: Stream, valid_at: datetime, known_at: datetime
) -> UserState | None:
    """Return a user by what had occurred by `valid_at` and was recorded by `known_at`.

    Both ends are inclusive. None if there was nothing, or if the user has been erased. PoisonError
    if an event that the answer needs can't be read.
    """
    recall: Recall | None = None
    folder = Folder(stream.partition, log.keyring)
    until = min(valid_at, _latest_known(known_at))
    async with aclosing(_newest_first(pool, stream, until, known_at)) as simultaneous:
        async for rows in simultaneous:
            if rows[0]["data_key"] is None:
                return None
            recall = recall or Recall(_wanted(rows[0], until, folder.key_of(rows)))
            events = map(folder.read, rows)
            for event in sorted(events, key=lambda e: (e.order_key, e.position), reverse=True):
                recall.add(event)
            if recall.complete:
                break
    return recall.state if recall else None


def _latest_known(known_at: datetime) -> datetime:
    """Return when the latest of the events recorded by then can have occurred."""
    try:
        return known_at + CLOCK_AHEAD_MAX
    except OverflowError:
        return known_at


async def _newest_first(
    pool: Pool, stream: Stream, until: datetime, known_at: datetime
) -> AsyncGenerator[list[asyncpg.Record]]:
    """Yield a user's events by the time they occurred, latest first, those of one time together.

    All as of the first look: what is appended meanwhile is not seen.
    """
    held: list[asyncpg.Record] = []
    position, head, rows_max = _LAST_POSITION, _LAST_POSITION, _PAGE_ROWS_FIRST
    while True:
        args = (stream.partition, stream.stream_id, until, position, known_at, head, rows_max)
        with database_errors():
            rows = await pool.fetch(_SQL["events_back"], *args)
        groups = [list(same) for _, same in groupby(held + rows, lambda row: row["occurred_at"])]
        ended = len(rows) < rows_max
        held = [] if ended or not groups else groups.pop()  # more of it may be on the next page
        for group in groups:
            yield group
        if ended:
            return
        head, until, position = rows[0]["head"], rows[-1]["occurred_at"], rows[-1]["position"] - 1
        rows_max = min(_PAGE_GROWTH * rows_max, _PAGE_ROWS_MAX)


def _wanted(row: asyncpg.Record, until: datetime, key: ColumnKey | None) -> set[str] | None:
    """Return the names that events up to a moment may carry; None if that is not known."""
    if row["sealed"] is None or key is None:
        return None
    found = open_user(
        key,
        {
            "stream_id": row["stream_id"],
            "sealed": row["sealed"],
            **{
                name: row[f"user_{name}"]
                for name in ("position", "occurred_at", "kind", "tie_break")
            },
        },
    )
    fields: Fields = msgspec.json.decode(found.state)
    return names_by(until, fields, found.company_id, found.since)
