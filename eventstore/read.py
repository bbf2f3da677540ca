"""Reading the log: rows as they are stored, and events opened from them."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import PlaceLostError, SealBrokenError, database_errors
from eventstore.events import PIECE_BYTES, Kind, Place, Position, RecordedEvent, Stream
from eventstore.postgres import statements
from eventstore.sealing.keys import NO_PAYLOAD

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keyring import Keyring

_SQL = statements.load("eventstore")
_PAGE_ROWS = 1_000
_KINDS = {int(kind): kind for kind in Kind}


class Head(msgspec.Struct, frozen=True):
    """The end of one partition; `chain` is the hash over everything up to it."""

    position: Position
    chain: bytes
    recorded_at: datetime


async def heads(source: Pool | Connection) -> list[Head]:
    """Return the end of every partition, in order of partition."""
    with database_errors():
        rows = await source.fetch(_SQL["heads"])
    return [
        Head(Position(row["partition"], row["position"]), row["chain"], row["recorded_at"])
        for row in rows
    ]


async def read(
    source: Pool | Connection, keyring: Keyring, after: Position, limit: int
) -> list[RecordedEvent]:
    """Read one partition's events after a position, in order, at most `limit`."""
    rows = await rows_after(source, after, limit)
    return [open_event(row, after.partition, keyring) for row in rows]


async def rows_after(
    source: Pool | Connection, after: Position, limit: int
) -> list[asyncpg.Record]:
    """Read the same, still sealed; `open_event` opens a row."""
    with database_errors():
        return await source.fetch(_SQL["read_log"], after.partition, after.number, limit)


async def page_after(
    source: Pool | Connection, after: Position, limit: int, bytes_max: int
) -> list[asyncpg.Record]:
    """Read the same, but no more than so many sealed bytes; at least one row, if there is any."""
    args = (after.partition, after.number, limit, bytes_max)
    with database_errors():
        return await source.fetch(_SQL["read_page"], *args)


async def check_place(
    source: Pool | Connection, place: Place, rows: Sequence[asyncpg.Record]
) -> Place:
    """Return a place with its piece; PlaceLostError if it is none of this log.

    `rows` are those of the page after it, which has looked already.
    """
    partition, number = place.position
    if number == 0:
        return Place(place.position)
    leaf, head = (rows[0]["leaf_before"], rows[-1]["position"]) if rows else (None, 0)
    if not rows:
        with database_errors():
            row = await source.fetchrow(_SQL["place"], partition, number)
        leaf, head = (row["leaf"], row["head"]) if row else (None, 0)
    found = Place(place.position, (leaf or b"")[:PIECE_BYTES])
    if leaf is None or place.piece not in (b"", found.piece):
        raise PlaceLostError(
            f"this log has no event {place.position} as it was when it was read; it goes up to"
            f" {partition}:{head}"
        )
    return found


async def rows_of_streams(
    source: Pool | Connection, stream_ids: Sequence[uuid.UUID], until: Position
) -> list[asyncpg.Record]:
    """Read all events of some users of one partition up to a position, user by user, sealed."""
    with database_errors():
        return await source.fetch(_SQL["read_streams"], until.partition, stream_ids, until.number)


async def rows_of_stream(
    source: Pool | Connection, stream: Stream, known_at: datetime
) -> list[asyncpg.Record]:
    """Read a user's events with recorded_at <= known_at, sealed."""
    with database_errors():
        return await source.fetch(_SQL["read_stream"], stream.partition, stream.stream_id, known_at)


async def find_stream(pool: Pool, stream: Stream) -> tuple[bool, datetime | None]:
    """Say whether a user was ever heard of, and when they were erased."""
    with database_errors():
        row = await pool.fetchrow(_SQL["stream_erased"], stream.partition, stream.stream_id)
    return (False, None) if row is None else (True, row["erased_at"])


async def fetch_by_user(
    connection: Connection, statement: str, *args: object
) -> AsyncGenerator[list[asyncpg.Record]]:
    """Yield what a statement ordered by stream_id finds, user by user, reading page by page.

    In a transaction, which is all that needs to be ended if not everything is read.
    """
    held: list[asyncpg.Record] = []
    with database_errors():
        cursor = await connection.cursor(statement, *args)
        while rows := await cursor.fetch(_PAGE_ROWS):
            for stream_id, ours in groupby(rows, itemgetter("stream_id")):
                if held and held[0]["stream_id"] != stream_id:
                    yield held
                    held = []
                held += ours
    if held:
        yield held


def rows_of_range(
    connection: Connection, first: uuid.UUID, last: uuid.UUID, until: Position
) -> AsyncGenerator[list[asyncpg.Record]]:
    """Read the events of a range of users up to a position, user by user, still sealed."""
    where = (until.partition, first, last, until.number)
    return fetch_by_user(connection, _SQL["read_range"], *where)


def stream_of(row: asyncpg.Record, partition: int) -> Stream:
    """Return whose event a row of events joined with streams is."""
    return Stream(partition, row["stream_id"], row["application_id"], row["user_id"])


def has_payload(row: asyncpg.Record) -> bool:
    """Say whether there is anything to open in such a row; of an erased user there is not."""
    return row["data_key"] is not None and row["payload"] != NO_PAYLOAD


def open_event(row: asyncpg.Record, partition: int, keyring: Keyring) -> RecordedEvent:
    """Open such a row."""
    position = Position(partition, row["position"])
    try:
        payload = keyring.open(row)
    except SealBrokenError as error:
        msg = f"event {position}: {error}"
        raise SealBrokenError(msg) from error
    return RecordedEvent(
        position,
        stream_of(row, partition),
        _KINDS[row["kind"]],
        row["occurred_at"],
        row["recorded_at"],
        row["identity"],
        payload,
        after_erasure=row["position"] > (row["erased_position"] or row["position"]),
    )


async def find_streams(
    pool: Pool, partitions: int, stream_ids: Sequence[uuid.UUID]
) -> list[Stream]:
    """Return the users whose streams have these ids, of those that are known."""
    with database_errors():
        rows = await pool.fetch(_SQL["streams_named"], list(range(partitions)), stream_ids)
    return [
        Stream(row["partition"], row["stream_id"], row["application_id"], row["user_id"])
        for row in rows
    ]
