"""Proofs: that stored rows are equal to the log, and that two generations are equal.

Both look at a snapshot, in which the rows of a partition and its checkpoint belong together, so
appends, projector and readers go on meanwhile. Neither writes.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, TypeAlias

from eventstore import read
from eventstore.events import Position
from eventstore.postgres import statements
from projections import numbers
from projections.fold.folder import Folder
from projections.fold.timeslice import BACKGROUND_S, Timeslices
from projections.project import checkpoints
from projections.project.search_key import known_search_key
from projections.prove.differences import Difference, Differences, compare
from projections.prove.ranges import Range, merged, split
from projections.query.formats import rfc3339
from projections.read_models import TABLES, USERS
from projections.tables import Generation, Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.columns import ColumnKey
    from eventstore.sealing.keyring import Keyring

    Users: TypeAlias = AsyncGenerator[list[asyncpg.Record]]
    Sums: TypeAlias = dict[int, tuple[int, int]]

_SQL = statements.load("projections.prove")
_BUCKETS = 256


async def prove(
    log: EventLog, users: Range, generation: int | None = None, rest_s: float = 0
) -> Differences:
    """Fold a range of users and compare with the rows of a generation, or of the active one.

    With `rest_s` it rests so long after every two milliseconds of folding.
    """
    found = Differences()
    async with log.snapshot() as connection:
        number, until = await _checkpoint(connection, users.partition, generation)
        exempt = await _exempt(connection, until, number)
        folder = Folder(users.partition, log.keyring, await known_search_key(log))
        timeslices = Timeslices(BACKGROUND_S, rest_s)
        events = read.rows_of_range(connection, users.first, users.last, until)
        stored = [_rows(connection, table, number, users) for table in TABLES]
        async for ours, *theirs in merged([events, *stored]):
            if _stream_id(ours, *theirs) in exempt:
                continue
            one = await timeslices.run(folder.folding(ours)) if ours else None
            found.users += one is not None
            for table, rows in zip(TABLES, theirs, strict=True):
                right = list(table.rows(one)) if one else []
                found.rows += len(right)
                key = one.keys.columns if one and one.keys else None
                found.add(compare(table, users.partition, right, rows, key))
        await _add_names(connection, users.partition, found.first)
    return found


async def compare_generations(
    connection: Connection, keyring: Keyring, until: Position, right: int, stored: int
) -> Differences:
    """Compare two generations of a partition that stand at one position in a snapshot.

    Sums over all rows first; the rows only of those users whose sums differ, and what is sealed in
    them opened.
    """
    found = Differences()
    exempt = await _exempt(connection, until, stored)
    for table in TABLES:
        ours, theirs = await _sums(connection, table, until.partition, (right, stored))
        rows = sum(count for count, _ in ours.values())
        found.rows += rows
        found.users += rows if table is USERS else 0
        unequal = {n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)}
        buckets = split(until.partition, _BUCKETS)
        for users in (buckets[n] for n in sorted(unequal)):
            pair = [_rows(connection, table, number, users) for number in (right, stored)]
            async for one, other in merged(pair):
                stream_id = _stream_id(one, other)
                if one != other and stream_id not in exempt:
                    key = await _key(connection, keyring, until.partition, stream_id)
                    found.add(compare(table, until.partition, one, other, key))
    for number in (right, stored):
        found.add(await _numbers(connection, until.partition, number))
    await _add_names(connection, until.partition, found.first)
    return found


async def prove_numbers(log: EventLog, partition: int, generation: int | None) -> Differences:
    """Compare the numbers of a generation, or of the active one, with the sums over its history."""
    found = Differences()
    async with log.snapshot() as connection:
        number, _ = await _checkpoint(connection, partition, generation)
        found.add(await _numbers(connection, partition, number))
    return found


async def _numbers(connection: Connection, partition: int, number: int) -> list[Difference]:
    return [
        Difference(
            application_id=application_id,
            table="numbers",
            what="differs",
            at=rfc3339(quarter),
            fields=[],
            position=None,
            partition=partition,
            stream_id="",
        )
        for application_id, quarter in await numbers.differing(
            connection, Generation(partition, number)
        )
    ]


async def _key(
    connection: Connection, keyring: Keyring, partition: int, stream_id: uuid.UUID
) -> ColumnKey | None:
    """Return the key of a user's columns; None if they are erased."""
    row = await connection.fetchrow(_SQL["key"], partition, stream_id)
    key = keyring.of_row(row) if row else None
    return key.for_columns() if key else None


async def _checkpoint(
    connection: Connection, partition: int, generation: int | None
) -> tuple[int, Position]:
    """Return a generation, or the active one, and its checkpoint."""
    if generation is None:
        found = await checkpoints.active(connection, partition)
        assert found is not None, "the active generation has a checkpoint in every partition"  # noqa: S101
        return found
    number = await checkpoints.find(connection, Generation(partition, generation))
    assert number is not None, "a generation that is proved is not removed"  # noqa: S101
    return generation, Position(partition, number)


async def _exempt(connection: Connection, until: Position, number: int) -> set[uuid.UUID]:
    """Return the users whose rows may differ from the events up to a position."""
    rows = await connection.fetch(_SQL["not_compared"], until.partition, until.number, number)
    return {row["stream_id"] for row in rows}


def _rows(connection: Connection, table: Table, number: int, users: Range) -> Users:
    where = Generation(users.partition, number)
    statement = table.select
    return read.fetch_by_user(
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
    for row in await connection.fetch(table.sums, partition, numbers):
        sums[row["generation"]][row["bucket"]] = (row["rows"], row["checksum"])
    return sums[numbers[0]], sums[numbers[1]]


async def _add_names(connection: Connection, partition: int, found: Sequence[Difference]) -> None:
    ids = {uuid.UUID(one.stream_id) for one in found if one.stream_id}
    rows = await connection.fetch(_SQL["names"], partition, list(ids))
    names = {row["stream_id"].hex: (row["application_id"], row["user_id"]) for row in rows}
    for one in found:
        if one.stream_id:
            one.application_id, one.user_id = names.get(one.stream_id, ("", one.stream_id))
