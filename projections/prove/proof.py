"""Proofs: that stored rows are what the log says, and that two generations are equal.

Both look at a snapshot, in which the rows of a partition and its checkpoint belong together, so
appends, projector and readers go on meanwhile. Neither writes.
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from eventstore import store
from eventstore.errors import database_errors
from eventstore.events import Position
from eventstore.postgres import statements
from projections.fold.folder import Folder
from projections.fold.timeslice import BACKGROUND_S, Turns
from projections.prove.differences import Difference, Differences, compare
from projections.prove.ranges import Range, merged, split
from projections.tables import TABLES, Generation, Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from eventstore.log import EventLog
    from eventstore.postgres.database import Connection

    Users: TypeAlias = AsyncGenerator[list[asyncpg.Record]]
    Sums: TypeAlias = dict[int, tuple[int, int]]

_SQL = statements.load("projections")
_BUCKETS = 256


@asynccontextmanager
async def snapshot(log: EventLog) -> AsyncGenerator[Connection]:
    """Yield a connection that sees the database as it is at its first look."""
    with database_errors():
        async with (
            log.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection


async def prove(
    log: EventLog, users: Range, generation: int | None = None, rest_s: float = 0
) -> Differences:
    """Fold a range of users and compare with what a generation, or the one that answers, has.

    With `rest_s` it rests so long after every two milliseconds of folding.
    """
    found = Differences()
    async with snapshot(log) as connection:
        number, until = await _standing(connection, users.partition, generation)
        spared = await _spared(connection, until, number)
        folder = Folder(users.partition, log.keyring)
        turns = Turns(BACKGROUND_S, rest_s)
        events = store.rows_of_range(connection, users.first, users.last, until)
        stored = [_rows(connection, table, number, users) for table in TABLES]
        async for ours, *theirs in merged([events, *stored]):
            if _stream_id(ours, *theirs) in spared:
                continue
            one = await turns.do(folder.folding(ours)) if ours else None
            found.users += one is not None
            for table, rows in zip(TABLES, theirs, strict=True):
                right = list(table.rows(one)) if one else []
                found.rows += len(right)
                found.add(compare(table, users.partition, right, rows))
        await _say_who(connection, users.partition, found.first)
    return found


async def compare_generations(
    connection: Connection, until: Position, right: int, stored: int
) -> Differences:
    """Compare two generations of a partition that stand at one position in a snapshot.

    Sums over all rows first; the rows only of those users whose sums differ.
    """
    found = Differences()
    spared = await _spared(connection, until, stored)
    for table in TABLES:
        ours, theirs = await _sums(connection, table, until.partition, (right, stored))
        rows = sum(count for count, _ in ours.values())
        found.rows += rows
        found.users += 0 if table.key else rows
        unequal = {n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)}
        buckets = split(until.partition, _BUCKETS)
        for users in (buckets[n] for n in sorted(unequal)):
            pair = [_rows(connection, table, number, users) for number in (right, stored)]
            async for one, other in merged(pair):
                if _stream_id(one, other) not in spared:
                    found.add(compare(table, until.partition, one, other))
    await _say_who(connection, until.partition, found.first)
    return found


async def _standing(
    connection: Connection, partition: int, generation: int | None
) -> tuple[int, Position]:
    """Return a generation, or the one that answers, and where it stands."""
    if generation is not None:
        args = (partition, "users", generation)
        number: int = await connection.fetchval(_SQL["checkpoint_of"], *args)
        return generation, Position(partition, number)
    row = await connection.fetchrow(_SQL["checkpoint"], partition)
    assert row is not None, "a generation that answers has a checkpoint in every partition"  # noqa: S101
    return row["generation"], Position(partition, row["position"])


async def _spared(connection: Connection, until: Position, number: int) -> set[uuid.UUID]:
    """Return the users whose rows need not be what the events up to a position say."""
    rows = await connection.fetch(_SQL["not_compared"], until.partition, until.number, number)
    return {row["stream_id"] for row in rows}


def _rows(connection: Connection, table: Table, number: int, users: Range) -> Users:
    where = Generation(users.partition, number)
    statement = _SQL[f"{table.name}_rows"]
    return store.by_user(
        connection, statement, where.partition, where.number, users.first, users.last
    )


def _stream_id(*sources: Sequence[asyncpg.Record]) -> uuid.UUID:
    found: uuid.UUID = next(rows[0]["stream_id"] for rows in sources if rows)
    return found


async def _sums(
    connection: Connection, table: Table, partition: int, numbers: tuple[int, int]
) -> tuple[Sums, Sums]:
    """Return, for each of two generations, what its rows are worth by their first byte."""
    sums: dict[int, Sums] = {number: {} for number in numbers}
    for row in await connection.fetch(_SQL[f"{table.name}_sums"], partition, numbers):
        sums[row["generation"]][row["bucket"]] = (row["rows"], row["checksum"])
    return sums[numbers[0]], sums[numbers[1]]


async def _say_who(connection: Connection, partition: int, found: Sequence[Difference]) -> None:
    ids = {uuid.UUID(one.stream_id) for one in found}
    rows = await connection.fetch(_SQL["names"], partition, list(ids))
    names = {row["stream_id"].hex: (row["application_id"], row["user_id"]) for row in rows}
    for one in found:
        one.application_id, one.user_id = names.get(one.stream_id, ("", one.stream_id))
