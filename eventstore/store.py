"""The log's statements, called with events and answered with events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventstore.errors import SealBrokenError, WrongKeyError, database_errors
from eventstore.events import Kind, NewEvent, Position, RecordedEvent, Stream
from eventstore.postgres import statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from eventstore.postgres.database import Connection, Pool
    from eventstore.sealing.keyring import Keyring, StreamKey

_SQL = statements.load("eventstore")
NO_PAYLOAD = b""
_ERASURE = b"erased"
_PAGE_ROWS = 1_000
_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta(milliseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC, microsecond=999_000)
"""What lies beyond, the driver stores as an infinity, which does not come back as a time."""

_MINUTE_BYTES = 4
"""They last for all years that a datetime knows."""


class SealedEvent(NamedTuple):
    """An event ready to be appended: nothing in it can be read without the user's key.

    A tuple, because a batch of them is turned into columns for the database.
    """

    stream_id: uuid.UUID
    key_id: int
    kind: Kind
    occurred_at: datetime
    identity: bytes
    digest: bytes
    payload: bytes
    recorded_at: datetime | None
    stream: Stream
    key: StreamKey


class Head(msgspec.Struct, frozen=True):
    """The end of one partition; `chain` is the hash over everything up to it."""

    position: Position
    chain: bytes
    recorded_at: datetime


def seal(event: NewEvent, stream: Stream, key: StreamKey) -> SealedEvent:
    """Seal an event with its user's key. Of an erased user's event nothing readable is kept."""
    data_key, stream_id = key.data_key, stream.stream_id
    identity = data_key.identity(event.identity)
    if event.dated:
        identity = _minute(event.occurred_at) + identity[_MINUTE_BYTES:]
    payload = NO_PAYLOAD
    if event.payload is not None and not key.erased:
        payload = data_key.seal(event.payload, context_of(stream_id, identity))
    return SealedEvent(
        stream_id,
        key.key_id,
        event.kind,
        min(max(event.occurred_at, _FIRST), _LAST),
        identity,
        data_key.digest(event.content),
        payload,
        event.recorded_at,
        stream,
        key,
    )


def _minute(at: datetime) -> bytes:
    """Return what the identities of all events of a minute begin with.

    So what happens together stands together in their index, and appending touches the end of it.
    """
    return max(0, int(at.timestamp()) // 60).to_bytes(_MINUTE_BYTES)


def context_of(stream_id: uuid.UUID, identity: bytes) -> bytes:
    """Return what a payload is bound to: it opens nowhere else."""
    return stream_id.bytes + identity


async def append_batch(
    source: Pool | Connection,
    partition: int,
    batch: Sequence[SealedEvent],
) -> list[tuple[str, int]]:
    """Append in one round trip; return (outcome, number of the position) for each, in order."""
    *columns, recorded_ats, _, _ = map(list, zip(*batch, strict=True))
    new = {one.key.key_id: one for one in batch if not one.key.stored}.values()
    with database_errors():
        row = await source.fetchrow(
            _SQL["append"],
            partition,
            recorded_ats if any(recorded_ats) else None,
            [one.stream_id for one in new],
            [one.stream.application_id for one in new],
            [one.stream.user_id for one in new],
            [one.key_id for one in new],
            [one.key.wrapped for one in new],
            *columns,
        )
    assert row is not None  # noqa: S101 - the function has one answer
    for one in new:
        one.key.stored = True
    return list(zip(row["outcomes"], row["positions"], strict=True))


async def erase(
    pool: Pool, stream: Stream, key: StreamKey, recorded_at: datetime | None = None
) -> int | None:
    """Put a tombstone in a key's place; return the event's number, None if there was no key."""
    with database_errors():
        number: int | None = await pool.fetchval(
            _SQL["erase"],
            stream.partition,
            recorded_at,
            stream.stream_id,
            key.key_id,
            key.data_key.identity(_ERASURE),
            key.data_key.digest(_ERASURE),
        )
    return number


async def check_key(pool: Pool, keyring: Keyring) -> None:
    """WrongKeyError if the users' keys in the database were wrapped with another master key."""
    with database_errors():
        row = await pool.fetchrow(_SQL["any_key"])
    try:
        if row is not None:
            keyring.of_row(row)
    except SealBrokenError as error:
        msg = "the master key is not the one that this database was written with"
        raise WrongKeyError(msg) from error


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
    return [recorded(row, after.partition, keyring) for row in rows]


async def rows_after(
    source: Pool | Connection, after: Position, limit: int
) -> list[asyncpg.Record]:
    """Read the same, still sealed; `recorded` opens a row."""
    with database_errors():
        return await source.fetch(_SQL["read_log"], after.partition, after.number, limit)


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


async def by_user(
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
    return by_user(connection, _SQL["read_range"], *where)


def stream_of(row: asyncpg.Record, partition: int) -> Stream:
    """Return whose event a row of events joined with streams is."""
    return Stream(partition, row["stream_id"], row["application_id"], row["user_id"])


def has_payload(row: asyncpg.Record) -> bool:
    """Say whether there is anything to open in such a row; of an erased user there is not."""
    return row["data_key"] is not None and row["payload"] != NO_PAYLOAD


def recorded(row: asyncpg.Record, partition: int, keyring: Keyring) -> RecordedEvent:
    """Open such a row."""
    position = Position(partition, row["position"])
    try:
        payload = _opened(row, keyring)
    except SealBrokenError as error:
        msg = f"event {position}: {error}"
        raise SealBrokenError(msg) from error
    return RecordedEvent(
        position,
        stream_of(row, partition),
        Kind(row["kind"]),
        row["occurred_at"],
        row["recorded_at"],
        payload,
        after_erasure=row["position"] > (row["erased_position"] or row["position"]),
    )


def _opened(row: asyncpg.Record, keyring: Keyring) -> bytes | None:
    key = keyring.of_row(row)
    if key is None or not has_payload(row):
        return None
    return key.open(row["payload"], context_of(row["stream_id"], row["identity"]))
