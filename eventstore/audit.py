"""The audit: who erased whom and why, and what else has to be accounted for.

Rows are written by audit() in schema.sql alone, which numbers those of a partition without gaps
and chains each to the one before; `verify` proves that none was altered, removed or moved. Who,
what and why are sealed with a key of the log's own, so an erasure does not take them away.
"""

from __future__ import annotations

import struct
import uuid
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from eventstore.errors import SealBrokenError, database_errors
from eventstore.events import Position
from eventstore.postgres import statements
from eventstore.sealing.keys import DataKey

if TYPE_CHECKING:
    import asyncpg

    from eventstore.events import Stream
    from eventstore.postgres.pool import Pool
    from eventstore.sealing.own_keys import OwnKeys

Action: TypeAlias = Literal["erase", "subject", "users export", "quarantine purge"]

_SQL = statements.load("eventstore")
# Where what is about no user belongs.
_PARTITION = 0
_NO_STREAM = uuid.UUID(int=0)


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did something.

    A token by its name and id, the system user who ran a command, the service by itself because a
    setting says so, or an import.
    """

    kind: Literal["token", "command", "service", "import"]
    name: str
    id: str = ""

    def __str__(self) -> str:
        """Name them, for people."""
        return f"{self.kind} {self.name}" + (f" ({self.id})" if self.id else "")


class Act(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody did, and why; `about` says which, or how much, if that is not a user."""

    action: Action
    actor: Actor
    reason: str = ""
    about: dict[str, str | int] = {}


class Audited(NamedTuple):
    """A row of the audit; `position` is that of an erasure's event."""

    at: Position
    recorded_at: datetime
    stream_id: uuid.UUID | None
    position: Position | None
    act: Act


class Erased(msgspec.Struct, frozen=True):
    """A user who was erased: at which position, and by whom if the audit knows."""

    position: Position
    stream_id: uuid.UUID
    application_id: str
    user_id: str
    erased_at: datetime
    act: Act | None


class Audit:
    """Writes and reads the audit of a log."""

    def __init__(self, pool: Pool, own_keys: OwnKeys) -> None:
        self._pool = pool
        self._own_keys = own_keys

    async def key(self) -> DataKey | None:
        """Return the key that opens the rows; None if there is none yet, and so no row."""
        secret = await self._own_keys.find("audit")
        return None if secret is None else DataKey.of(secret)

    async def seal(self, act: Act, stream: Stream | None) -> bytes:
        """Seal what was done, for the partition of a user and them alone."""
        key = DataKey.of(await self._own_keys.find_or_make("audit"))
        return key.seal(msgspec.json.encode(act), _context(*_place(stream)))

    async def write(self, act: Act, stream: Stream | None = None) -> None:
        """Write a row; durable when this returns. An erasure writes its own."""
        sealed = await self.seal(act, stream)
        with database_errors():
            await self._pool.execute(_SQL["audit_write"], *_place(stream), None, sealed)

    async def of_user(self, stream: Stream) -> list[Audited]:
        """Return what was done about a user, the oldest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["audit_of_user"], stream.partition, stream.stream_id)
        key = await self.key()
        return [_audited(row, key) for row in rows] if key else []

    async def erasures(self, partition: int) -> list[Erased]:
        """Return who was erased in a partition, in the order of their positions."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["erasures"], partition)
        key = await self.key()
        return [_erased(row, key) for row in rows]


def _place(stream: Stream | None) -> tuple[int, uuid.UUID | None]:
    return (stream.partition, stream.stream_id) if stream else (_PARTITION, None)


def _context(partition: int, stream_id: uuid.UUID | None) -> bytes:
    return b"audit" + struct.pack(">i", partition) + (stream_id or _NO_STREAM).bytes


def open_act(key: DataKey, row: asyncpg.Record) -> Act:
    """Open a row; SealBrokenError if it was altered or moved."""
    sealed = key.open(row["sealed"], _context(row["partition"], row["stream_id"]))
    return msgspec.json.decode(sealed, type=Act)


def _audited(row: asyncpg.Record, key: DataKey) -> Audited:
    partition, position = row["partition"], row["position"]
    return Audited(
        Position(partition, row["number"]),
        row["recorded_at"],
        row["stream_id"],
        None if position is None else Position(partition, position),
        open_act(key, row),
    )


def _erased(row: asyncpg.Record, key: DataKey | None) -> Erased:
    act = None
    if key and row["sealed"] is not None:
        # Who was erased is listed though the row was altered, which `verify` finds.
        with suppress(SealBrokenError):
            act = open_act(key, row)
    return Erased(
        Position(row["partition"], row["position"]),
        row["stream_id"],
        row["application_id"],
        row["user_id"],
        row["erased_at"],
        act,
    )
