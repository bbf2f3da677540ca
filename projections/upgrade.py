"""Upgrade: brings an installed schema to this version, in place, while the old one goes on serving.

  fill      new read models, in a schema of their own, are rebuilt from the log
  prove     all their rows are compared with the log
  follow    they are kept up to date, until services that would not notice the switch have stopped
  switch    one transaction: no append is under way, the new read models have all there is; the
            files of eventstore/postgres/upgrades run, and the new take the place of the old

What is done is in the database: an upgrade that was interrupted goes on where it stopped. Without
a change of the read models there is the switch alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from eventstore.errors import LogError
from eventstore.postgres import schema, upgrade
from eventstore.postgres.pool import owner_connection, refuse_transaction_pooler
from eventstore.postgres.upgrade import NEXT, UNAWARE
from eventstore.sealing import current_key, own_keys
from projections import numbers
from projections.project import checkpoints, parked
from projections.project.projector import catch_up
from projections.rebuild import progress
from projections.rebuild.generations import code_version
from projections.rebuild.log_source import LogSource, opened
from projections.rebuild.rebuild import Plan, rebuild
from projections.tables import Generation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.postgres.upgrade import Step
    from projections.rebuild.progress import Progress

_BATCH = 500
# Earlier versions erase somebody without taking back what they add to the numbers.
_WITH_NUMBERS = 4
# Earlier versions erase without a row of the audit.
_WITH_AUDIT = 5
_LOOK_S = 0.5
_PAUSE_S = 1.0
_SHOWN = 3


class Upgraded(msgspec.Struct, frozen=True):
    """From which version to which, and how many users are parked in the new read models."""

    before: int
    after: int
    parked: int


class Watcher:
    """Hears what an upgrade does; the methods do nothing here."""

    def say(self, text: str) -> None:
        """Take a sentence about what is going on."""

    def filled(self, found: Progress) -> None:
        """Take how far the new read models are."""

    def execute(self, statement: str) -> None:
        """Take the statement that is executed next."""


async def upgrade_schema(
    source: LogSource, workers: int, watcher: Watcher, *, parking: bool = False
) -> Upgraded | None:
    """Bring the schema to this version; return None if it is of this version already.

    `source` is the log's as its owner. What stands in the way for good is an error of `inspect` or
    `begin`, or a LogError: among them that users would be parked who were not before, unless
    `parking`. What passes is waited for, with a sentence to the watcher.
    """
    async with _connected(source) as connection:
        async with _connected(source) as other:
            await refuse_transaction_pooler(connection, other)
        before, beyond = await upgrade.inspect(connection)
        if before == schema.SCHEMA_VERSION:
            await schema.check(connection)
            return None
        await upgrade.begin(connection)
        if beyond:
            watcher.say(f"the schema has more than userlog made: {', '.join(beyond)}")
        steps = upgrade.steps_after(before)
        beside = msgspec.structs.replace(source, schema=NEXT)
        if any(step.makes_read_models for step in steps):
            await _fill(connection, beside, workers, watcher, with_numbers=_has_numbers(before))
            if not parking:
                await _refuse_parked(connection, before)
            async with opened(beside) as log:
                await _switch_when_possible(connection, log, steps, before, watcher)
        else:
            await _switch_when_possible(connection, None, steps, before, watcher)
        await schema.check(connection)
        writers = await upgrade.writers(connection)
    async with opened(source) as log, log.connection() as connection:
        await log.begin()
        if before < _WITH_AUDIT:
            await _end_of(connection, writers)
            await upgrade.begin_audit(connection)
        if not _has_numbers(before):
            await _correct_numbers(log)
        return Upgraded(before, schema.SCHEMA_VERSION, await parked.count(connection))


def _connected(source: LogSource) -> AbstractAsyncContextManager[Connection]:
    return owner_connection(source.url, source.timeout_s, NEXT)


async def _refuse_parked(connection: Connection, before: int) -> None:
    if count := await upgrade.newly_parked(connection, before):
        raise LogError(
            f"{count} users with an event that can't be read would be parked, and were not before:"
            " is a former master key missing (USERLOG_PREVIOUS_MASTER_KEY)? Nothing was switched."
            " `userlog upgrade --drop`, and another upgrade reads them again; `userlog upgrade"
            " --park` goes on without them"
        )


async def drop_unfinished(source: LogSource) -> bool:
    """Remove what an unfinished upgrade has made; return whether there was something."""
    async with _connected(source) as connection:
        await upgrade.begin(connection)
        return await upgrade.drop_next(connection)


def _has_numbers(version: int) -> bool:
    """Say whether a version takes back what somebody has added to the numbers when it erases them.

    If not, they are corrected before the switch, and after it for erasures that waited for it.
    """
    return version >= _WITH_NUMBERS


async def _end_of(connection: Connection, transactions: list[str]) -> None:
    while True:
        if not await upgrade.are_writing(connection, transactions):
            return
        await asyncio.sleep(_LOOK_S)


async def _correct_numbers(log: EventLog) -> None:
    async with log.connection() as connection:
        generations = await checkpoints.generations(connection, "live")
    for number in generations:
        for partition in range(log.partitions):
            await numbers.correct(log, Generation(partition, number))


async def _fill(
    connection: Connection,
    beside: LogSource,
    workers: int,
    watcher: Watcher,
    *,
    with_numbers: bool,
) -> None:
    async with opened(beside):  # before anything is made: the master key fits
        pass
    mark = f"{code_version()} {schema.digest()}"
    await upgrade.make_next(connection, mark)
    await own_keys.make_for_upgrade(connection, beside.master(), "search")
    if await upgrade.is_proven(connection, mark):
        return
    watcher.say("new read models are filled from the log; the old version can go on serving")
    plan = Plan(workers=workers, behind_max=-1, parking=True, numbers=with_numbers)
    async with _watched(beside, watcher):
        done = await rebuild(beside, plan)
    if done.proof.differing:
        await upgrade.drop_next(connection)
        raise LogError(
            f"{done.proof.differing} rows of the new read models differ from the log; they were"
            " removed, and nothing else was changed: this is a defect of userlog"
        )
    await upgrade.set_proven(connection, mark)
    watcher.say(f"{done.proof.rows} rows of {done.proof.users} users: all equal to the log")


@contextlib.asynccontextmanager
async def _watched(beside: LogSource, watcher: Watcher) -> AsyncGenerator[None]:
    async def look() -> None:
        async with opened(beside) as log:
            while True:
                async with log.connection() as connection:
                    found = await progress.read(connection)
                if found:
                    watcher.filled(found)
                await asyncio.sleep(_LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _switch_when_possible(
    connection: Connection, log: EventLog | None, steps: list[Step], before: int, watcher: Watcher
) -> None:
    said = ""
    if log and not _has_numbers(before):
        await _correct_numbers(log)
    while True:
        waiting = await _waiting_for(connection, before)
        if log:
            await catch_up(log, _BATCH)
        if not waiting:
            try:
                await _switch(connection, log, steps, watcher)
            except asyncpg.DependentObjectsStillExistError as error:
                raise LogError(
                    "something that userlog did not make depends on a table of the old version"
                    f" ({' '.join((error.detail or '').split())}): take it away until `userlog"
                    " upgrade` has been run again; nothing was switched"
                ) from error
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                waiting = "something long is read or written; the switch waits for its end"
            else:
                return
        if waiting != said:
            watcher.say(waiting)
            said = waiting
        await asyncio.sleep(_PAUSE_S)


async def _waiting_for(connection: Connection, before: int) -> str:
    """Return what has to end before the switch; empty if nothing has to."""
    sessions_left = await upgrade.old_sessions(connection) if before in UNAWARE else []
    if not sessions_left:
        return ""
    shown = ", ".join(sessions_left[:_SHOWN])
    return (
        f"stop all services and commands of version {before}: the switch waits for the end of their"
        f" sessions ({len(sessions_left)}: {shown})"
    )


async def _switch(
    connection: Connection, log: EventLog | None, steps: list[Step], watcher: Watcher
) -> None:
    async with connection.transaction():
        await upgrade.hold_log(connection)
        made: dict[str, bytes] = {}
        if log:
            await catch_up(log, _BATCH)
            if steps[0].version > upgrade.FINGERPRINTED:  # it may have been rotated meanwhile
                await current_key.check(connection, log.master_key)
            made = await own_keys.made_for_upgrade(connection, log.master_key)
        await upgrade.switch(connection, steps, watcher.execute)
        if log:
            await own_keys.keep(connection, log.master_key, made)
