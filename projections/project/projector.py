"""The projector: follows the log and keeps the read models up to date.

It takes a batch of events and writes their rows and the new checkpoint in one transaction, with
the checkpoint's row locked, so each event is projected exactly once however many projectors run
and whenever one dies. An event that can't be projected parks its user, with an error line;
the events of all others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog

from eventstore import read
from eventstore.errors import UnavailableError
from eventstore.events import Position
from projections.fold.folder import Folder
from projections.project import checkpoints
from projections.project.batch import ROW_ERRORS, Batch
from projections.project.search_key import search_key
from projections.project.stuck_sessions import end_stuck_sessions
from projections.tables import Generation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore.log import EventLog

    Observer: TypeAlias = Callable[[Generation, int, float], None]

# Between two batches: one of a single event costs almost as much as one of twenty.
_GATHER_S = 0.02
_log = structlog.stdlib.get_logger("userlog.projector")


class Projected(msgspec.Struct, frozen=True):
    """What one batch did: how many events, and how far the checkpoint is now."""

    events: int
    position: Position


async def project_batch(
    log: EventLog, where: Generation, batch_max: int, *, live: bool = False
) -> Projected | None:
    """Project the next events of one partition into one generation, in one transaction.

    Returns None if another projector has this partition, or the generation is gone. An event that
    can't be projected parks its user if the generation is `live`; else PoisonError.
    """
    try:
        return await _project(log, where, batch_max, live=live)
    except ROW_ERRORS:  # whose rows are they? That costs more than to write them all at once
        return await _project(log, where, batch_max, live=live, one_by_one=True)


async def _project(
    log: EventLog, where: Generation, batch_max: int, *, live: bool, one_by_one: bool = False
) -> Projected | None:
    search = await search_key(log)
    if search is None:  # there are no events yet
        batch_max = 0
    folder = Folder(where.partition, log.keyring, search)
    async with log.transaction() as connection:
        done = await checkpoints.lock(connection, where)
        if done is None:
            return None
        rows = await read.rows_after(connection, Position(where.partition, done), batch_max)
        batch = Batch(connection, folder, where, done)
        if rows:
            await batch.fold(rows)
            if batch.poison:  # it is no event's fault if the master key is the wrong one
                await log.check_master_key(connection)
            _check(batch, live=live)
            await batch.write(one_by_one=one_by_one)
            _check(batch, live=live)
            done = int(rows[-1]["position"])
            await checkpoints.move(connection, where, done)
    _log_parked(batch, where.number)
    return Projected(len(rows), Position(where.partition, done))


def _check(batch: Batch, *, live: bool) -> None:
    if batch.poison and not live:
        raise min(batch.poison.values(), key=lambda error: error.position)


def _log_parked(batch: Batch, generation: int) -> None:
    for error in batch.poison.values():
        about = {"position": str(error.position), "reason": error.reason, "generation": generation}
        _log.error("user parked", **about, exc_info=error if error.is_defect else None)


async def catch_up(log: EventLog, batch_max: int, observers: Sequence[Observer] = ()) -> int:
    """Project until nothing is left in any partition and live generation; return how many.

    `observers` are called after each batch: where, how many events, and how many seconds it took.
    What a partition can't do stops its own generation of it alone; the error is raised when the
    others have caught up. That the database is away is raised at once.
    """
    projected = 0
    stopped: Exception | None = None
    async with log.connection() as connection:
        followed = await checkpoints.followed(connection)
    for number in followed:
        for partition in range(log.partitions):
            where = Generation(partition, number)
            try:
                projected += await _catch_up_partition(log, where, batch_max, observers)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - raised below
                stopped = stopped or error
    if stopped:
        raise stopped
    return projected


async def _catch_up_partition(
    log: EventLog, where: Generation, batch_max: int, observers: Sequence[Observer]
) -> int:
    projected = 0
    while True:
        began = time.perf_counter()
        done = await project_batch(log, where, batch_max, live=True)
        if done is None:  # locked, maybe by a process that is frozen
            await end_stuck_sessions(log)
            return projected
        if done.events:
            projected += done.events
            for observe in observers:
                observe(where, done.events, time.perf_counter() - began)
        if done.events < batch_max:
            return projected


class Projector:
    """Keeps the read models up to date until stopped.

    Woken by `wake`, and looks by itself every `poll_s` seconds, because other processes append
    to the database too. `observers` are called after each batch, as by `catch_up`.
    """

    def __init__(self, log: EventLog, *, batch_max: int, poll_s: float) -> None:
        self._log = log
        self._batch_max = batch_max
        self._poll_s = poll_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.observers: list[Observer] = []

    def wake(self) -> None:
        """Look at the log now."""
        self._woken.set()

    def start(self) -> None:
        """Begin to follow the log; idempotent."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._run(), name="projector")

    async def stop(self) -> None:
        """Finish or roll back the batch in progress; idempotent."""
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
            trouble = await self._catch_up(trouble)
            await asyncio.sleep(_GATHER_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_s)

    async def _catch_up(self, logged: str) -> str:
        """Catch up; return what stands in the way, logged unless it was `logged` before."""
        try:
            await catch_up(self._log, self._batch_max, self.observers)
        except UnavailableError as error:
            trouble = "unavailable"
            if trouble != logged:
                _log.warning("projector waits for the database", problem=str(error))
        except Exception as error:  # noqa: BLE001 - a projector that ends in silence is worse
            trouble = type(error).__name__
            if trouble != logged:
                _log.error("projector stands still", problem=trouble, exc_info=error)
        else:
            trouble = ""
        return trouble
