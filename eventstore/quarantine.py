"""What was signed and could not be read: kept sealed, counted, never refused.

Refusing a delivery for ever would make the platform block the subscriber, and every other event
with it; dropping it would lose it. So it waits here for an operator, whole, or of several entries
each that could not be read by itself. What is about a user whose ids could be read goes when they
are erased, and nothing of them is kept after that. Only where there is no room left it is refused
for now: the platform sends it again.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventstore.errors import QuarantineFullError, SealBrokenError, database_errors
from eventstore.events import Stream, Unreadable
from eventstore.postgres import statements
from eventstore.sealing.current_key import with_current_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import asyncpg

    from eventstore.postgres.pool import Pool
    from eventstore.sealing.own_keys import OwnKeys

_SQL = statements.load("eventstore")
BYTES_MAX = 10_000_000_000
# How many ids an erasure names of what can't be attributed to a user.
UNATTRIBUTED_MAX = 1_000
# What a delivery occupies beside what is counted: the rest of its row, and its places in indexes.
_ROW_BYTES = 300
_PURGED_AT_ONCE = 1_000


class Quarantined(msgspec.Struct, frozen=True):
    """A delivery in quarantine, or an entry of one.

    The ids are None if it is not known whom it is about. `detail` names where it fails, never what
    stands there; `headers` are those that help to find out who sent it.
    """

    id: uuid.UUID
    application_id: str | None
    user_id: str | None
    reason: str
    detail: str
    headers: dict[str, str]
    first_seen: datetime
    last_seen: datetime
    times_seen: int


class _Row(NamedTuple):
    """What quarantine_put() takes."""

    id: uuid.UUID
    stream_id: uuid.UUID | None
    application_id: str | None
    user_id: str | None
    reason: str
    detail: str
    size: int
    wrapped: bytes
    sealed: bytes


class Quarantine:
    """Puts deliveries into quarantine and shows them."""

    def __init__(
        self, pool: Pool, partitions: int, own_keys: OwnKeys, bytes_max: int = BYTES_MAX
    ) -> None:
        """`partitions` and `own_keys` are those of the log beside it."""
        self._pool = pool
        self._bytes_max = bytes_max
        self._partitions = partitions
        self._everywhere = list(range(partitions))
        self._own_keys = own_keys
        self._master = own_keys.master

    async def put(
        self, body: bytes, reason: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> uuid.UUID:
        """Keep one body whose users are not known, and return its id; see `put_all`."""
        (key,) = await self.put_all([Unreadable(body, reason, detail)], headers)
        return key

    async def put_all(
        self, unreadable: Sequence[Unreadable], headers: Mapping[str, str] | None = None
    ) -> list[uuid.UUID]:
        """Keep bodies, and return the ids of those that are kept; durable when this returns.

        The same body again is only counted. Of users who are erased nothing is kept.
        QuarantineFullError if there is no room for all. Several who come at once may each find the
        same room, so the limit may be passed by as many deliveries as are put at once.
        """
        secret = await self._own_keys.find_or_make("quarantine")
        about = msgspec.json.encode(headers or {}).decode()
        # The same bytes twice in a delivery are one.
        keyed = {_key(secret, one.body): one for one in unreadable}
        rows = {key: self._row(key, one, about) for key, one in keyed.items()}
        await self._find_room({key: row.size for key, row in rows.items()}, keyed)
        placed: dict[int, list[uuid.UUID]] = {}
        for key, one in keyed.items():
            placed.setdefault(self._partition_of(key, one), []).append(key)
        kept: list[uuid.UUID] = []
        for partition, keys in placed.items():
            first = [rows[key] for key in keys]
            kept += await self._put(partition, about, first, {key: keyed[key] for key in keys})
        return kept

    async def ids(self, unreadable: Sequence[Unreadable]) -> list[uuid.UUID]:
        """Return the ids that bodies have, or would have, in quarantine."""
        secret = await self._own_keys.find_or_make("quarantine")
        return [_key(secret, one.body) for one in unreadable]

    async def _put(
        self, partition: int, headers: str, first: list[_Row], keyed: dict[uuid.UUID, Unreadable]
    ) -> list[uuid.UUID]:
        """Keep rows; they are made again if the log has moved to another master key meanwhile."""
        rows, sealed_under = first, self._master.current

        async def put() -> list[uuid.UUID]:
            nonlocal rows, sealed_under
            if sealed_under != self._master.current:
                rows = [self._row(key, one, headers) for key, one in keyed.items()]
                sealed_under = self._master.current
            where = (partition, sealed_under, headers)
            columns = map(list, zip(*rows, strict=True))
            kept: list[uuid.UUID] = await self._pool.fetchval(
                _SQL["quarantine_put"], *where, *columns
            )
            return kept

        with database_errors():
            return await with_current_key(self._pool, partition, self._master, put)

    def _row(self, key: uuid.UUID, one: Unreadable, headers: str) -> _Row:
        wrapped, data_key = self._master.new_data_key(key.bytes)
        sealed = data_key.seal(one.body, key.bytes)
        stream = self._stream(one)
        ids = (stream.stream_id if stream else None, one.application_id, one.user_id)
        texts = (headers, one.reason, one.detail, one.application_id or "", one.user_id or "")
        size = _ROW_BYTES + sum(map(len, (*texts, wrapped, sealed)))
        return _Row(key, *ids, one.reason, one.detail, size, wrapped, sealed)

    async def _find_room(
        self, sizes: dict[uuid.UUID, int], keyed: dict[uuid.UUID, Unreadable]
    ) -> None:
        partitions = [self._partition_of(key, one) for key, one in keyed.items()]
        with database_errors():
            row = await self._pool.fetchrow(_SQL["quarantine_room"], partitions, list(keyed))
        assert row is not None  # noqa: S101 - it is a row of sums
        new = sizes.keys() - set(row["known"])
        if new and row["bytes"] + sum(sizes[key] for key in new) > self._bytes_max:
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
            row = await self._pool.fetchrow(_SQL["quarantine_get"], self._everywhere, key)
        return None if row is None else self._opened(row)

    async def has(self, stream: Stream) -> bool:
        """Say whether anything is about a user."""
        return bool(await self._ids_of(stream))

    async def of_user(self, stream: Stream) -> AsyncIterator[tuple[Quarantined, bytes | None]]:
        """Yield what is about a user, the oldest first, with the bodies; None: it does not open."""
        for key in await self._ids_of(stream):
            with database_errors():
                row = await self._pool.fetchrow(_SQL["quarantine_get"], [stream.partition], key)
            if row is None:  # removed since
                continue
            try:
                yield self._opened(row)
            except SealBrokenError:
                yield _quarantined(row), None

    async def _ids_of(self, stream: Stream) -> list[uuid.UUID]:
        where = (stream.partition, stream.stream_id)
        with database_errors():
            rows = await self._pool.fetch(_SQL["quarantine_of_user"], *where)
        return [row["id"] for row in rows]

    async def unattributed(self, limit: int) -> list[uuid.UUID]:
        """Return the ids of what is about users who are not known, the newest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["quarantine_unattributed"], limit)
        return [row["id"] for row in rows]

    def _opened(self, row: asyncpg.Record) -> tuple[Quarantined, bytes]:
        name = row["id"].bytes
        return _quarantined(row), self._master.unwrap(row["data_key"], name).open(row["body"], name)

    async def keys(self, reason: str | None) -> list[uuid.UUID]:
        """Return the ids of all, or of all with one reason, the oldest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["quarantine_keys"], reason)
        return [row["id"] for row in rows]

    async def remove(self, key: uuid.UUID, *, unattributed: bool = False) -> bool:
        """Throw one away, or only if it has no user's ids; return whether it was there."""
        args = (self._everywhere, key, unattributed)
        with database_errors():
            found = await self._pool.fetchval(_SQL["quarantine_remove"], *args)
        return found is not None

    async def purge(self, before: datetime) -> int:
        """Throw away what was last seen before a time; return how much that was."""
        purged = 0
        for partition in self._everywhere:
            done: int | None = _PURGED_AT_ONCE
            while done == _PURGED_AT_ONCE:
                with database_errors():
                    args = (partition, before, _PURGED_AT_ONCE)
                    done = await self._pool.fetchval(_SQL["quarantine_expired"], *args)
                purged += done or 0
        return purged

    async def count(self, before: datetime | None = None) -> int:
        """Return how much is in quarantine, or how much was last seen before a time."""
        name, args = ("quarantine_due", [before]) if before else ("quarantine_count", [])
        with database_errors():
            counted: int = await self._pool.fetchval(_SQL[name], *args)
        return counted

    def _stream(self, one: Unreadable) -> Stream | None:
        if one.application_id is None or one.user_id is None:
            return None
        return Stream.of(one.application_id, one.user_id, self._partitions)

    def _partition_of(self, key: uuid.UUID, one: Unreadable) -> int:
        stream = self._stream(one)
        return stream.partition if stream else int.from_bytes(key.bytes[:8]) % self._partitions


def _key(secret: bytes, body: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.blake2b(body, key=secret, digest_size=16).digest())


def _quarantined(row: asyncpg.Record) -> Quarantined:
    values = {name: row[name] for name in Quarantined.__struct_fields__}
    values["headers"] = msgspec.json.decode(row["headers"])
    return Quarantined(**values)
