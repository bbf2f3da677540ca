"""Signed deliveries that could not be read: kept whole, sealed, counted, never refused.

Refusing one for ever would make the platform block the subscriber, and every other event with
it; dropping it would lose it. So it waits here for an operator. Only where there is no room left it
is refused for now: the platform sends it again.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import QuarantineFullError, database_errors
from eventstore.postgres import statements
from eventstore.sealing.current_key import with_current_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from eventstore.postgres.pool import Pool
    from eventstore.sealing.own_keys import OwnKeys

_SQL = statements.load("eventstore")
BYTES_MAX = 10_000_000_000
# What a delivery occupies beside what is counted: the rest of its row, and its places in indexes.
_ROW_BYTES = 300


class Quarantined(msgspec.Struct, frozen=True):
    """A delivery in quarantine.

    `detail` names where it fails, never what stands there; `headers` are those that help to find
    out who sent it.
    """

    id: uuid.UUID
    reason: str
    detail: str
    headers: dict[str, str]
    first_seen: datetime
    last_seen: datetime
    times_seen: int


class Quarantine:
    """Puts deliveries into quarantine and shows them."""

    def __init__(
        self, pool: Pool, partitions: int, own_keys: OwnKeys, bytes_max: int = BYTES_MAX
    ) -> None:
        """`partitions` and `own_keys` are those of the log beside it."""
        self._pool = pool
        self._bytes_max = bytes_max
        self._partitions = partitions
        self._own_keys = own_keys
        self._master = own_keys.master

    async def put(
        self, body: bytes, reason: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> uuid.UUID:
        """Keep a body; the same body again is only counted. Durable when this returns.

        QuarantineFullError if there is no room for it. Several who come at once may each find the
        same room, so the limit may be passed by as many deliveries as are put at once.
        """
        secret = await self._own_keys.find_or_make("quarantine")
        key = uuid.UUID(bytes=hashlib.blake2b(body, key=secret, digest_size=16).digest())
        about = (reason, detail, msgspec.json.encode(headers or {}).decode())
        partition = self._partition(key)

        async def put() -> None:
            wrapped, data_key = self._master.new_data_key(key.bytes)
            where = (partition, self._master.current, key)
            sealed = data_key.seal(body, key.bytes)
            size = _ROW_BYTES + sum(map(len, (*about, wrapped, sealed)))
            await self._find_room(key, size)
            await self._pool.execute(_SQL["quarantine_put"], *where, *about, size, wrapped, sealed)

        with database_errors():
            await with_current_key(self._pool, partition, self._master, put)
        return key

    async def _find_room(self, key: uuid.UUID, size: int) -> None:
        with database_errors():
            row = await self._pool.fetchrow(_SQL["quarantine_room"], self._partition(key), key)
        assert row is not None  # noqa: S101 - it is a row of sums
        if not row["known"] and row["bytes"] + size > self._bytes_max:
            msg = (
                f"the quarantine has no room: {row['bytes']} of {self._bytes_max} bytes are used"
                " (USERLOG_QUARANTINE_BYTES_MAX); `userlog quarantine purge` or `replay` makes room"
            )
            raise QuarantineFullError(msg)

    async def newest(self, limit: int) -> list[Quarantined]:
        """Return the most recently seen, newest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["quarantine_list"], limit)
        return [_quarantined(row) for row in rows]

    async def show(self, key: uuid.UUID) -> tuple[Quarantined, bytes] | None:
        """Return one with its body, or None if there is none of that id."""
        with database_errors():
            row = await self._pool.fetchrow(_SQL["quarantine_get"], self._partition(key), key)
        if row is None:
            return None
        data_key = self._master.unwrap(row["data_key"], key.bytes)
        return _quarantined(row), data_key.open(row["body"], key.bytes)

    async def keys(self, reason: str | None) -> list[uuid.UUID]:
        """Return the ids of all, or of all with one reason, the oldest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["quarantine_keys"], reason)
        return [row["id"] for row in rows]

    async def remove(self, key: uuid.UUID) -> bool:
        """Throw one away; return whether it was there."""
        with database_errors():
            found = await self._pool.fetchval(_SQL["quarantine_remove"], self._partition(key), key)
        return found is not None

    async def count(self) -> int:
        """Return how many deliveries are in quarantine."""
        with database_errors():
            counted: int = await self._pool.fetchval(_SQL["quarantine_count"])
        return counted

    def _partition(self, key: uuid.UUID) -> int:
        return int.from_bytes(key.bytes[:8]) % self._partitions


def _quarantined(row: asyncpg.Record) -> Quarantined:
    values = {name: row[name] for name in Quarantined.__struct_fields__}
    values["headers"] = msgspec.json.decode(row["headers"])
    return Quarantined(**values)
