"""Rebuild: make the read models again from the log, beside the active generation, then flip.

  building      shards of users are folded and written, by any number of processes
  indexing      the new tables get their indexes and become a part of the read models
  catching up   the projector's batches, from the position where the build began to the present
  proving       the new generation is compared with the active one, at one position
  flip          one row names the active generation

Reads and appends go on all the time. The old generation goes on following, so that `roll_back`
is a flip too, until the next rebuild drops it. What is done is in the database: a rebuild that
was interrupted goes on where it stopped. Proof and flip lock the old generation's checkpoint,
so no reader ever sees the read model go back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import LogError
from eventstore.events import Position
from eventstore.postgres import statements
from projections.project import checkpoints
from projections.project.projector import project_batch
from projections.prove.differences import Differences
from projections.prove.proof import compare_generations, prove_numbers
from projections.rebuild import generations, progress, shards
from projections.rebuild.log_source import LogSource, opened
from projections.rebuild.worker import Load, Prove, Proved, Report
from projections.rebuild.worker_pool import run_all
from projections.tables import Generation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection

_SQL = statements.load("projections.rebuild")
_SHARD_EVENTS = 25_000
_BATCH_MAX = 500
_BEHIND_EVENTS = 50_000
_TURN_S = 0.01


class NoFormerGenerationError(LogError):
    """There is no other generation that is kept up to date."""


class Plan(msgspec.Struct, frozen=True):
    """How to rebuild: in how many processes, in shards of how many events, whether from scratch.

    `patience_s` is how long to wait for shards that another session has locked, such as one whose
    client has just died. An active generation that is more than `behind_max` events behind, as
    after an import, is not brought level to be compared: the new one is proven by the log instead.
    If `parking`, a user with an event that can't be projected is parked; else the rebuild fails.
    Without `numbers` these are not proven: the caller corrects them.
    """

    workers: int = 1
    shard_events_max: int = _SHARD_EVENTS
    fresh: bool = False
    patience_s: float = 3.0
    behind_max: int = _BEHIND_EVENTS
    parking: bool = False
    numbers: bool = True


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild did: `resumed` if it went on with what another one left."""

    generation: int
    resumed: bool
    events: int
    users: int
    proof: Differences


async def rebuild(
    source: LogSource, plan: Plan, started: Callable[[], None] = lambda: None
) -> Rebuilt:
    """Rebuild every read model; return when the new generation is active.

    `started` is called when no other rebuild can begin any more.
    RebuildRunningError if another rebuild works on this database.
    """
    async with _exclusive(source) as (log, connection):
        started()
        unfinished = None if plan.fresh else await generations.resume(connection)
        await generations.drop_others(connection, unfinished)
        number = unfinished or await _begin(connection, log, plan)
        await _build(connection, log, source, number, plan)
        await generations.set_phase(connection, number, "indexing")
        await generations.finish(connection, number)
        await generations.set_phase(connection, number, "catching up")
        old = await generations.active(connection)
        await _project_past_erasures(log, number, parking=plan.parking)
        abandoned = await _lead(log, number, old) > plan.behind_max
        if not abandoned:
            await _align(log, number, old)
        await generations.set_phase(connection, number, "proving")
        if abandoned:
            found = await _prove_with_log(log, source, plan, number)
        else:
            found = await _prove(connection, log, number, old)
            await _align(log, number, old)
        built = await progress.read(connection)
        async with connection.transaction():
            await generations.set_live(connection, number)
            await _flip(connection, log, number, old)
        if abandoned:
            await generations.drop_others(connection, number)
    events, users = (built.events, built.users) if built else (0, 0)
    return Rebuilt(number, unfinished is not None, events, users, found)


@contextlib.asynccontextmanager
async def _exclusive(source: LogSource) -> AsyncGenerator[tuple[EventLog, Connection]]:
    async with (
        opened(source) as log,
        log.connection() as connection,
        generations.exclusive(connection),
    ):
        yield log, connection


async def _begin(connection: Connection, log: EventLog, plan: Plan) -> int:
    heads = await log.heads()
    planned = shards.plan(heads, plan.shard_events_max, plan.workers)
    return await generations.create(connection, planned)


async def _build(
    connection: Connection, log: EventLog, source: LogSource, number: int, plan: Plan
) -> None:
    """Load the shards that are not loaded yet."""
    patient_until = math.inf
    while left := await connection.fetchval(_SQL["shards_open"], number):
        if time.monotonic() > patient_until:
            raise LogError("not every shard was loaded; another rebuild may be at work")
        workers = min(plan.workers, left)
        starts = [n * log.partitions // workers for n in range(workers)]
        jobs = [Load(number, start, plan.parking) for start in starts]
        await run_all(jobs, source, log, lambda _: None)
        patient_until = min(patient_until, time.monotonic() + plan.patience_s)
        await asyncio.sleep(_TURN_S)


async def _project_past_erasures(log: EventLog, number: int, *, parking: bool) -> None:
    """Project everything from before the new tables became a part of the read models.

    An erasure from then on takes its rows from them; one from before could not. The head's lock is
    waited for, because an erasure that has it may have begun before.
    """
    for partition in range(log.partitions):
        async with log.connection() as connection:
            head: int = await connection.fetchval(_SQL["head_settled"], partition)
        await _advance(log, Generation(partition, number), head, live=parking)


async def _prove(connection: Connection, log: EventLog, number: int, old: int) -> Differences:
    """Compare two generations, each partition as it is when both stand at one position."""
    found = Differences()
    for partition in range(log.partitions):
        await _align_partition(log, partition, number, old)
        async with log.snapshot() as seen:
            async with connection.transaction():
                until = await _hold(connection, log, partition, number, old)
                await generations.active(seen)  # its first look: what both have at this position
            found.join(await compare_generations(seen, log.keyring, until, number, old))
    return found


async def _lead(log: EventLog, number: int, old: int) -> int:
    """Return by how many events one generation is ahead of another one."""
    ahead = 0
    for partition in range(log.partitions):
        ours, theirs = Generation(partition, number), Generation(partition, old)
        ahead += max(0, await _position(log, ours) - await _position(log, theirs))
    return ahead


async def _align(log: EventLog, number: int, old: int) -> None:
    for partition in range(log.partitions):
        await _align_partition(log, partition, number, old)


async def _align_partition(log: EventLog, partition: int, number: int, old: int) -> None:
    """Bring whichever generation is behind to where the other one is, but for a last batch."""
    ours, theirs = Generation(partition, number), Generation(partition, old)
    while not 0 <= await _position(log, theirs) - await _position(log, ours) <= _BATCH_MAX:
        await _advance(log, ours, await _position(log, theirs))
        await _advance(log, theirs, await _position(log, ours), live=True)


async def _hold(
    connection: Connection, log: EventLog, partition: int, number: int, old: int
) -> Position:
    """Lock a generation's checkpoint, and bring another one to the same position."""
    held = await checkpoints.hold(connection, Generation(partition, old))
    if held is None:
        raise LogError(f"generation {old} was removed meanwhile")
    await _advance(log, Generation(partition, number), held)
    return Position(partition, held)


async def _advance(log: EventLog, where: Generation, until: int, *, live: bool = False) -> None:
    """Project up to a position and no further, taking turns with other projectors."""
    while (left := until - await _position(log, where)) > 0:
        if await project_batch(log, where, min(left, _BATCH_MAX), live=live) is None:
            await asyncio.sleep(_TURN_S)


async def _position(log: EventLog, where: Generation) -> int:
    async with log.connection() as connection:
        found = await checkpoints.find(connection, where)
    if found is None:
        raise LogError(f"generation {where.number} was removed meanwhile")
    return found


async def _flip(connection: Connection, log: EventLog, number: int, old: int) -> None:
    """Make another generation the active one, from where the old one is."""
    for partition in range(log.partitions):
        await _hold(connection, log, partition, number, old)
    await generations.flip(connection, number, old)


async def roll_back(source: LogSource) -> int:
    """Make the former generation the active one again; return its number."""
    async with _exclusive(source) as (log, connection):
        old = await generations.active(connection)
        others = [n for n in await checkpoints.generations(connection, "live") if n != old]
        if not others:
            raise NoFormerGenerationError("there is no other generation that follows the log")
        await _align(log, others[0], old)
        async with connection.transaction():
            await _flip(connection, log, others[0], old)
        return others[0]


async def drop_others(source: LogSource) -> list[int]:
    """Remove every generation that is not active; return their numbers."""
    async with _exclusive(source) as (_, connection):
        return await generations.drop_others(connection)


async def prove_all(
    source: LogSource, plan: Plan, counted: Callable[[int, int], None]
) -> Differences:
    """Compare all rows of the read models with the log; `counted`: (ranges done, in all)."""
    async with opened(source) as log:
        return await _prove_with_log(log, source, plan, None, counted)


async def _prove_with_log(
    log: EventLog,
    source: LogSource,
    plan: Plan,
    number: int | None,
    counted: Callable[[int, int], None] = lambda _done, _all: None,
) -> Differences:
    """Compare a generation, or the active one, with the log."""
    found = Differences()
    planned = shards.plan(await log.heads(), plan.shard_events_max, plan.workers)
    done = 0

    def take(report: Report) -> None:
        nonlocal done
        if isinstance(report, Proved):
            done += 1
            found.join(report.found)
            counted(done, len(planned))

    workers = min(plan.workers, len(planned))
    jobs = [Prove([s.users for s in planned[n::workers]], number) for n in range(workers)]
    await run_all(jobs, source, log, take)
    for partition in range(log.partitions if plan.numbers else 0):
        found.join(await prove_numbers(log, partition, number))
    return found
