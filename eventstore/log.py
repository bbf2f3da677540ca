"""The event log as its callers see it: append, read, erase.

Events are sealed here and committed as a group; append() in schema.sql gives them their positions.
"""

from __future__ import annotations

import time
import uuid
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from eventstore import append_call, read
from eventstore.audit import Act, Audit
from eventstore.errors import (
    DiskError,
    MasterKeyMovedError,
    SchemaMovedError,
    UnavailableError,
    WrongKeyError,
    as_unavailable,
    database_errors,
)
from eventstore.events import Appended, NewEvent, Position, Stream
from eventstore.group_commit import GroupCommit, QueueLimits, SharedReads
from eventstore.postgres import schema, statements
from eventstore.postgres.pool import Database
from eventstore.sealing import current_key
from eventstore.sealing.keyring import Keyring
from eventstore.sealing.own_keys import OwnKeys
from eventstore.sealing.seal import seal, seal_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

    from eventstore.append_call import Answer
    from eventstore.audit import Actor
    from eventstore.events import Place, RecordedEvent
    from eventstore.group_commit import Observer
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.schema import Checked
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey
    from eventstore.sealing.seal import SealedEvent

_SQL = statements.load("eventstore")
_is_stored = attrgetter("stored")
# How often an append is sealed again because its user's key had changed meanwhile.
_SEAL_AGAIN_MAX = 3
# How long the log is not ready after the database's disk took no append.
_UNREADY_S = 10.0
# Of a log of an earlier version, which has none.
_NO_ID = uuid.UUID(int=0)


class Erasure(NamedTuple):
    """What an erasure found: `position` only if this one did it.

    `quarantined` is how many deliveries, or entries of some, it removed from quarantine.
    """

    known: bool
    position: Position | None
    erased_at: datetime | None
    quarantined: int = 0


class EventLog(Database):
    """Appends and reads user events; open it with `EventLog.open`.

    `observers` are called after each batch that was appended, with the number of its events and
    the seconds it took; an erasure is a batch of one.
    """

    def __init__(
        self, pool: Pool, partitions: int, master_key: MasterKey, limits: QueueLimits
    ) -> None:
        """`partitions` is the number that the database was made with, see `open`."""
        super().__init__(pool)
        self._is_older = False
        self.partitions = partitions
        self.log_id = _NO_ID
        self.keyring = Keyring(pool, master_key)
        self.own_keys = OwnKeys(pool, master_key)
        self.audit = Audit(pool, self.own_keys)
        self.observers: list[Observer] = []
        self._heads: SharedReads[None, list[read.Head]] = SharedReads(
            "heads", lambda _: read.heads(pool)
        )
        self._group_commit = GroupCommit(self._append_batch, limits, self.observers)
        # When the database's disk took no append, until it takes one; a time of time.monotonic().
        self._disk_refused_at = -_UNREADY_S

    @classmethod
    async def open(
        cls,
        pool: Pool,
        master_key: MasterKey,
        limits: QueueLimits | None = None,
        checked: Checked | None = None,
    ) -> EventLog:
        """Check that the schema and the master key fit the database, and open the log in it.

        SchemaError or WrongKeyError if one does not. The schema may have been `checked` just now.
        """
        with database_errors():
            async with pool.acquire() as connection:
                checked = checked or await schema.check(connection)
                try:
                    await current_key.check(connection, master_key)
                except MasterKeyMovedError as error:
                    raise WrongKeyError(str(error)) from None
        log = cls(pool, checked.partitions, master_key, limits or QueueLimits())
        log.log_id = checked.log_id
        await log.keyring.check_master_key()
        return log

    @classmethod
    async def open_older(cls, pool: Pool, master_key: MasterKey) -> EventLog:
        """Open the log of a schema that is being upgraded, to fill new read models from it.

        WrongKeyError if the master key does not fit.
        """
        with database_errors():
            async with pool.acquire() as connection:
                partitions = await schema.partitions_of(connection)
        log = cls(pool, partitions, master_key, QueueLimits())
        log._is_older = True
        log.own_keys.of_upgrade = True
        await log.keyring.check_master_key()
        return log

    def stream(self, application_id: str, user_id: str) -> Stream:
        """Return the stream of a user in this log."""
        return Stream.of(application_id, user_id, self.partitions)

    @property
    def queued(self) -> int:
        """How many events wait to be appended."""
        return self._group_commit.queued

    async def append(self, events: Sequence[NewEvent]) -> list[Appended]:
        """Append events; return only when they are durable, with an answer for each.

        Raises UnavailableError (the events may or may not be in the log: append them again, they
        will not be doubled) and QueueFullError (they are not).
        """
        streams = [self.stream(event.application_id, event.user_id) for event in events]
        answers = await self._write(events, streams)
        if None in answers:
            await self._write_again(events, streams, answers)
        return [answer for answer in answers if answer is not None]

    async def _write(self, events: Sequence[NewEvent], streams: Sequence[Stream]) -> list[Answer]:
        keyring = self.keyring
        keys = keyring.cached(streams) or await keyring.find_or_make(streams)
        if len(events) == 1:
            sealed = [seal(events[0], streams[0], keys[0], keyring.ciphers)]
        else:
            sealed = await seal_all(events, streams, keys, keyring.ciphers)
        answers = await self._group_commit.submit(sealed)
        if not all(map(_is_stored, keys)):
            keyring.mark_stored(key for key, answer in zip(keys, answers, strict=True) if answer)
        return answers

    async def _append_batch(self, partition: int, batch: Sequence[SealedEvent]) -> list[Answer]:
        try:
            answers = await append_call.append_batch(self._pool, self.master_key, partition, batch)
        except Exception as error:
            if isinstance(as_unavailable(error), DiskError):
                self._disk_refused_at = time.monotonic()
            raise
        self._disk_refused_at = -_UNREADY_S
        return answers

    async def _write_again(
        self, events: Sequence[NewEvent], streams: Sequence[Stream], answers: list[Answer]
    ) -> None:
        """Seal and write the events whose users' keys were not those in the database."""
        for _ in range(_SEAL_AGAIN_MAX):
            left = [index for index, answer in enumerate(answers) if answer is None]
            if not left:
                return
            for index in left:
                self.keyring.forget(streams[index].stream_id.bytes)
            again = await self._write([events[n] for n in left], [streams[n] for n in left])
            for index, answer in zip(left, again, strict=True):
                answers[index] = answer
        if None in answers:
            msg = "a user's key kept changing while their events were sealed; try again"
            raise UnavailableError(msg)

    @property
    def master_key(self) -> MasterKey:
        """What wraps the users' keys."""
        return self.keyring.master

    async def ready(self) -> None:
        """Return if the log can be used; UnavailableError, or one of its kinds, if not.

        A full disk still answers questions. So the log is not ready for some seconds after its disk
        took no append; then somebody may try again.
        """
        if time.monotonic() - self._disk_refused_at < _UNREADY_S:
            raise DiskError("the database's disk took no append a moment ago")
        async with self.connection() as connection:
            if await connection.fetchval(_SQL["read_only"]):
                raise UnavailableError(
                    "the database takes no writes: it follows another server, or was made"
                    " read-only, as some are when their disk is full"
                )
            if not await schema.is_current(connection):
                raise SchemaMovedError
            await self.check_master_key(connection)

    async def check_master_key(self, connection: Connection) -> None:
        """MasterKeyMovedError if the log is not written with this master key any more.

        Asked before anybody is parked, and nothing opens then: it is no fault of their events.
        """
        if not self._is_older:
            await current_key.check(connection, self.master_key)

    async def begin(self) -> None:
        """Note which master key the log is written with, if nothing was written to it yet."""
        async with self.connection() as connection:
            await current_key.begin(connection, self.master_key)

    async def heads(self) -> list[read.Head]:
        """Return the end of every partition, read once for all who ask at once."""
        return await self._heads.get(None)

    async def read(self, after: Position, limit: int) -> list[RecordedEvent]:
        """Read one partition's events after a position, in order, at most `limit`."""
        return await read.read(self._pool, self.keyring, after, limit)

    async def rows_after(self, after: Position, limit: int) -> list[asyncpg.Record]:
        """Read the same, still sealed."""
        return await read.rows_after(self._pool, after, limit)

    async def page_after(self, after: Position, limit: int, bytes_max: int) -> list[asyncpg.Record]:
        """Read the same, but no more than so many sealed bytes; at least one row, if any."""
        return await read.page_after(self._pool, after, limit, bytes_max)

    async def check_place(self, place: Place, rows: Sequence[asyncpg.Record]) -> Place:
        """Return a follower's place with its piece; PlaceLostError if it is none of this log."""
        return await read.check_place(self._pool, place, rows)

    async def rows_of_stream(self, stream: Stream, known_at: datetime) -> list[asyncpg.Record]:
        """Read a user's events with recorded_at <= known_at, still sealed."""
        return await read.rows_of_stream(self._pool, stream, known_at)

    async def knows(self, stream: Stream) -> bool:
        """Say whether any event of a user was ever recorded."""
        return (await read.find_stream(self._pool, stream))[0]

    async def is_erased(self, stream: Stream) -> bool:
        """Say whether a user has been erased."""
        return (await read.find_stream(self._pool, stream))[1] is not None

    async def erase(
        self,
        stream: Stream,
        by: Actor,
        reason: str = "",
        *,
        recorded_at: datetime | None = None,
        if_none_after: int | None = None,
    ) -> Erasure:
        """Destroy a user's key, and their rows in every read model and in quarantine, for good.

        Their events stay in the log, sealed for ever; what arrives later is recorded without its
        payload. Erasing again changes nothing. The audit keeps by whom it was done, and why. Only
        an import brings a `recorded_at`. Nothing is done if the user has an event at a later
        number than `if_none_after`.
        """
        began = time.perf_counter()
        audit = await self.audit.seal(Act("erase", by, reason), stream)
        what = append_call.Erasing(stream, recorded_at, if_none_after, audit)
        number, quarantined = await append_call.erase(self._pool, self.master_key, what)
        self.keyring.forget(stream.stream_id.bytes)
        position = None
        if number is not None:
            position = Position(stream.partition, number)
            for observe in self.observers:
                observe(1, time.perf_counter() - began)
        known, erased_at = await read.find_stream(self._pool, stream)
        return Erasure(known, position, erased_at, quarantined)

    async def find(self, stream_ids: Sequence[uuid.UUID]) -> list[Stream]:
        """Return the users whose streams have these ids, of those that the log knows."""
        return await read.find_streams(self._pool, self.partitions, stream_ids)

    async def close(self) -> None:
        """Write what is queued; the pool stays its owner's to close."""
        await self._group_commit.drain()
