"""The projector: follows the log and keeps the read models up to date.

It takes a batch of events and writes their rows and the new checkpoint in one transaction, with
the checkpoint's row locked, so each event is projected exactly once however many projectors run
and whenever one dies. An event that comes late, by effective order, has its user folded again
from the log; every other one is folded onto the row.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from eventstore import sql, store
from eventstore.errors import LogError, UnavailableError, database_errors
from eventstore.events import Position, RecordedEvent
from projections import tables
from projections.deliveries import UnreadableError
from projections.history import HistoryEntry, entry, late_ones, replay
from projections.state import UserEvent, UserState, fold, read_event
from projections.tables import Folded, Generation

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from eventstore.database import Connection
    from eventstore.log import EventLog

_SQL = sql.load("projections")
_PROJECTION = "users"
_log = structlog.stdlib.get_logger("userlog.projector")


class PoisonError(LogError):
    """An event of the log can't be projected; nothing after it is, until it can."""


class Projected(msgspec.Struct, frozen=True):
    """What one batch did: how many events, and how far the checkpoint is now."""

    events: int
    position: Position


async def project_batch(log: EventLog, where: Generation, batch_max: int) -> Projected | None:
    """Project the next events of one partition into one generation, in one transaction.

    Returns None if another projector has this partition, or the generation is gone.
    """
    with database_errors():
        async with log.pool.acquire() as connection, connection.transaction():
            key = (where.partition, _PROJECTION, where.number)
            done: int | None = await connection.fetchval(_SQL["checkpoint_lock"], *key)
            if done is None:
                return None
            after = Position(where.partition, done)
            events = await store.read(connection, log.keyring, after, batch_max)
            if events:
                await _apply(connection, log, where, events)
                after = events[-1].position
                await connection.execute(_SQL["checkpoint_move"], *key, after.number)
            return Projected(len(events), after)


async def _apply(
    connection: Connection, log: EventLog, where: Generation, events: list[RecordedEvent]
) -> None:
    by_stream: dict[uuid.UUID, list[RecordedEvent]] = {}
    for event in events:
        by_stream.setdefault(event.stream.stream_id, []).append(event)
    states = await tables.read_states(connection, where, list(by_stream))
    found: list[Folded] = []
    late: list[uuid.UUID] = []
    for stream_id, ours in by_stream.items():
        folded = _advance(states.get(stream_id), ours)
        if folded is None:
            late.append(stream_id)
        else:
            found.append(folded)
    if late:
        found += await _refold(connection, log, late, events[-1].position)
    await tables.write(connection, where, found)


def _advance(state: UserState | None, events: list[RecordedEvent]) -> Folded | None:
    """Fold events onto a state; None if one of them came late and the user must be refolded."""
    stream = events[0].stream
    ours = readable(events)
    if ours is None:
        return Folded(stream, None, [], whole=True)
    if late_ones(ours, state.last.order_key if state else b""):
        return None
    entries: list[HistoryEntry] = []
    for event in ours:
        after = fold(state, event)
        entries.append(entry(state, after, late=False))
        state = after
    return Folded(stream, state, entries, whole=False)


async def _refold(
    connection: Connection, log: EventLog, stream_ids: Sequence[uuid.UUID], until: Position
) -> list[Folded]:
    by_stream: dict[uuid.UUID, list[RecordedEvent]] = {}
    for event in await store.read_streams(connection, log.keyring, stream_ids, until):
        by_stream.setdefault(event.stream.stream_id, []).append(event)
    found: list[Folded] = []
    for events in by_stream.values():
        ours = readable(events)
        state, entries = replay(ours) if ours is not None else (None, [])
        found.append(Folded(events[0].stream, state, entries, whole=True))
    return found


def readable(events: list[RecordedEvent]) -> list[UserEvent] | None:
    """Read a user's events; None if the user is erased, which leaves no payload to read."""
    if any(event.payload is None for event in events):
        return None
    return [_read(event) for event in events]


def _read(event: RecordedEvent) -> UserEvent:
    try:
        return read_event(event)
    except UnreadableError as error:
        msg = f"event {event.position} can't be read: {error.reason}"
        raise PoisonError(msg) from error


async def generations(log: EventLog, state: str) -> list[int]:
    """Return the numbers of the generations that are `live`, or `building`."""
    with database_errors():
        found = await log.pool.fetch(_SQL["generations"], _PROJECTION, state)
    return [row["generation"] for row in found]


async def catch_up(log: EventLog, batch_max: int) -> int:
    """Project until nothing is left in any partition and live generation; return how many.

    An event that can't be projected stops its own partition and generation; its error is raised
    when the others have caught up.
    """
    projected = 0
    stopped: LogError | None = None
    for number in await generations(log, "live"):
        for partition in range(log.partitions):
            where = Generation(partition, number)
            try:
                while (done := await project_batch(log, where, batch_max)) and done.events:
                    projected += done.events
            except UnavailableError:
                raise
            except LogError as error:
                stopped = stopped or error
    if stopped:
        raise stopped
    return projected


class Projector:
    """Keeps the read models up to date until stopped.

    Woken by `wake`, and looks by itself every `poll_s` seconds: whoever else appends to the
    database wakes nobody here.
    """

    def __init__(self, log: EventLog, *, batch_max: int, poll_s: float) -> None:
        """Nothing runs until `start`."""
        self._log = log
        self._batch_max = batch_max
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def wake(self) -> None:
        """Look at the log now."""
        self._woken.set()

    def start(self) -> None:
        """Begin to follow the log; idempotent."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._run(), name="projector")

    async def stop(self) -> None:
        """Finish or roll back the batch in hand; idempotent."""
        if self._task is not None:
            # A cancellation alone can get lost: a connection that breaks meanwhile hides it.
            self._stopping = True
            self.wake()
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        trouble = ""
        while not self._stopping:
            self._woken.clear()
            trouble = await self._look(trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_s)

    async def _look(self, said: str) -> str:
        """Catch up; say what stands in the way, unless it is what was said last, and return it."""
        try:
            await catch_up(self._log, self._batch_max)
        except UnavailableError as error:
            trouble = "unavailable"
            if trouble != said:
                _log.warning("projector waits for the database", problem=str(error))
        except LogError as error:
            trouble = str(error)
            if trouble != said:
                _log.error("projector stands still", problem=trouble)
        except Exception as error:  # noqa: BLE001 - a projector that ends in silence is worse
            trouble = type(error).__name__
            if trouble != said:
                _log.error("projector stands still", problem=trouble, exc_info=error)
        else:
            trouble = ""
        return trouble
