"""The numbers of an application: what happened in each quarter of an hour, of all users together.

A quarter of an hour, in UTC, because there are days that begin at +5:45 (Nepal). They are no rows
of users: what a user adds to them follows from the lifecycles in their history, which are in the
clear. What takes a user's history away, a fold of the whole user or an erasure, takes back what it
had added, and the numbers are the sums over the history at any moment.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from eventstore.postgres import statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping, Sequence

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from projections.fold.folder import Folded
    from projections.fold.history import HistoryEntry
    from projections.tables import Generation

QUARTER = timedelta(minutes=15)
COLUMNS = ("created", "deleted", "blocked", "reactivated", "active", "events")
_NOTHING = (0,) * len(COLUMNS)
_PARTS = statements.load("projections", "numbers.sql")
SQL = {
    name: text.replace("{counted}", _PARTS["counted"]).replace("{summed}", _PARTS["summed"])
    for name, text in _PARTS.items()
    if name.startswith("numbers")
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# An application and the beginning of a quarter of an hour.
Place: TypeAlias = tuple[str, datetime]
Numbers: TypeAlias = dict[Place, list[int]]


def added_by(folded: Iterable[Folded]) -> Numbers:
    """Return what the entries of some folds add."""
    found: Numbers = defaultdict(lambda: [0] * len(COLUMNS))
    for one in folded:
        for entry in one.entries:
            at = entry.event.occurred_at
            quarter = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
            numbers = found[one.stream.application_id, quarter]
            for index, number in enumerate(_of(entry)):
                numbers[index] += number
    return found


def _of(entry: HistoryEntry) -> tuple[int, ...]:
    """Return what an entry counts for, in the order of COLUMNS; `counted` is the same in SQL."""
    was, now = entry.before, entry.after
    moved = was != now
    return (
        was is None,
        moved and now == "deleted",
        moved and now == "blocked",
        moved and now == "active" and was is not None,
        (now == "active") - (was == "active"),
        1,
    )


async def of_users(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> Numbers:
    """Return what the histories of some users, as they are stored, have added."""
    rows = await connection.fetch(
        SQL["numbers_of_users"], where.partition, where.number, stream_ids
    )
    return {
        (row["application_id"], row["quarter"]): [row[name] for name in COLUMNS] for row in rows
    }


async def change(
    connection: Connection,
    where: Generation,
    added: Mapping[Place, Sequence[int]],
    taken: Mapping[Place, Sequence[int]],
) -> None:
    """Add numbers and take others back, in the order in which everybody locks their rows."""
    net = {
        place: [
            plus - minus
            for plus, minus in zip(
                added.get(place, _NOTHING), taken.get(place, _NOTHING), strict=True
            )
        ]
        for place in added.keys() | taken.keys()
    }
    # By the quarter's number: asyncpg takes the first moment of the year 1 for -infinity.
    changes = sorted(
        (application_id, (quarter - _EPOCH) // QUARTER, *numbers)
        for (application_id, quarter), numbers in net.items()
        if any(numbers)
    )
    if changes:
        columns = zip(*changes, strict=True)
        await connection.execute(
            SQL["numbers_change"], where.partition, where.number, *map(list, columns)
        )


async def fill(connection: Connection, number: int) -> None:
    """Make the numbers of a generation from its history, in a transaction of the caller's.

    Nothing writes to that history meanwhile: it is no part of the read models yet, or is of an
    upgrade and the caller its only projector.
    """
    await forget(connection, number)
    await connection.execute(SQL["numbers_fill"].format(history=f"history_g{number}"))


async def forget(connection: Connection, number: int) -> None:
    """Forget the numbers of a generation that is gone."""
    await connection.execute(SQL["numbers_forget"], number)


async def differing(connection: Connection, where: Generation) -> Numbers:
    """Return where the numbers of a generation are not the sums over its history, by how much."""
    rows = await connection.fetch(SQL["numbers_differ"], where.partition, where.number)
    return {
        (row["application_id"], row["quarter"]): [row[name] for name in COLUMNS] for row in rows
    }


async def correct(log: EventLog, where: Generation) -> None:
    """Make the numbers of a generation the sums over its history, while both go on to change.

    What they lack is found in a snapshot and then added, as all changes of numbers are.
    """
    async with log.snapshot() as connection:
        lacking = await differing(connection, where)
    async with log.transaction() as connection:
        await change(connection, where, lacking, {})
