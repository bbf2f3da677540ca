"""The event log as its callers see it: append and read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from eventstore import store
from eventstore.errors import UnavailableError, database_errors
from eventstore.events import Appended, NewEvent, Outcome, Position, Stream
from eventstore.group_commit import Appender, AppenderLimits
from eventstore.postgres import database
from eventstore.sealing.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from eventstore.postgres.database import Pool
    from eventstore.sealing.keys import MasterKey

_STALE_MAX = 3
_STALE = "stale"
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class Erasure(NamedTuple):
    """What an erasure found: `position` only if this one did it."""

    known: bool
    position: Position | None
    erased_at: datetime | None


class EventLog:
    """Appends and reads user events; open it with `EventLog.open`.

    `appended` is called after each append that added something, for whoever follows the log in
    the same process.
    """

    def __init__(
        self, pool: Pool, partitions: int, master_key: MasterKey, limits: AppenderLimits
    ) -> None:
        """`partitions` is what the database says, see `open`."""
        self.pool = pool
        self.partitions = partitions
        self.keyring = Keyring(pool, master_key)
        self.appender = Appender(partial(store.append_batch, pool), limits)
        self.appended: Callable[[], None] = _nobody_follows

    @classmethod
    async def open(
        cls, pool: Pool, master_key: MasterKey, limits: AppenderLimits | None = None
    ) -> EventLog:
        """Check that the schema and the master key fit the database, and open the log in it.

        SchemaError or WrongKeyError if one does not.
        """
        with database_errors():
            async with pool.acquire() as connection:
                partitions = await database.check(connection)
        log = cls(pool, partitions, master_key, limits or AppenderLimits())
        await store.check_key(pool, log.keyring)
        return log

    def stream(self, application_id: str, user_id: str) -> Stream:
        """Find the place of a user in this log."""
        return Stream.of(application_id, user_id, self.partitions)

    async def append(self, events: Sequence[NewEvent]) -> list[Appended]:
        """Append events; return only when they are durable, with an answer for each.

        Raises UnavailableError (the events may or may not be in the log: append them again, they
        will not be doubled) and QueueFullError (they are not).
        """
        streams = [self.stream(event.application_id, event.user_id) for event in events]
        written = await self._write(events, streams)
        for _ in range(_STALE_MAX):
            stale = [i for i, (outcome, _) in enumerate(written) if outcome == _STALE]
            if not stale:
                break
            for i in stale:
                self.keyring.forget(streams[i])
            again = await self._write([events[i] for i in stale], [streams[i] for i in stale])
            for i, one in zip(stale, again, strict=True):
                written[i] = one
        else:
            msg = "a user's key kept changing while their events were sealed; try again"
            raise UnavailableError(msg)
        self.appended()
        return [
            Appended(_OUTCOMES[outcome], Position(stream.partition, number))
            for stream, (outcome, number) in zip(streams, written, strict=True)
        ]

    async def _write(
        self, events: Sequence[NewEvent], streams: Sequence[Stream]
    ) -> list[tuple[str, int]]:
        keys = self.keyring.at_hand(streams) or await self.keyring.find_or_make(streams)
        return await self.appender.submit(list(map(store.seal, events, streams, keys)))

    async def heads(self) -> list[store.Head]:
        """Return the end of every partition."""
        return await store.heads(self.pool)

    async def knows(self, stream: Stream) -> bool:
        """Say whether any event of a user was ever recorded."""
        known, _ = await store.find_stream(self.pool, stream)
        return known

    async def is_erased(self, stream: Stream) -> bool:
        """Say whether a user has been erased."""
        _, erased_at = await store.find_stream(self.pool, stream)
        return erased_at is not None

    async def erase(self, stream: Stream, recorded_at: datetime | None = None) -> Erasure:
        """Destroy a user's key and their rows in every read model, for good.

        Their events stay in the log, sealed for ever; what arrives later is recorded without its
        payload. Erasing again changes nothing. Only an import brings a `recorded_at`.
        """
        number = await store.erase(self.pool, stream, self.keyring.tombstone(stream), recorded_at)
        self.keyring.forget(stream)
        if number is not None:
            self.appended()
        known, erased_at = await store.find_stream(self.pool, stream)
        position = Position(stream.partition, number) if number is not None else None
        return Erasure(known, position, erased_at)

    async def close(self) -> None:
        """Finish what is queued; the pool stays its owner's to close."""
        await self.appender.drain()


def _nobody_follows() -> None:
    return
