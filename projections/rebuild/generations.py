"""Generations of the read models: their tables, their states, and which one is active.

A generation is built in tables of its own that no query sees, gets its indexes, and only then
becomes a part of the read models. Every step can be taken again after it was interrupted, and
locks the generation's row, so that two rebuilds at once can't spoil each other's work.
"""

from __future__ import annotations

import contextlib
from importlib import metadata
from typing import TYPE_CHECKING

import asyncpg

from eventstore.errors import LogError, database_errors
from eventstore.postgres import statements
from projections import numbers
from projections.fold.state import FOLD_VERSION
from projections.project import checkpoints, parked
from projections.read_models import TABLES
from projections.rebuild import shards

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from eventstore.postgres.sessions import Connection
    from projections.rebuild.shards import Shard

_SQL = statements.load("projections.rebuild")


class RebuildRunningError(LogError):
    """Another rebuild is running; one at a time."""


def code_version() -> str:
    """Name the code that folds: what it makes may differ from what another version makes."""
    return f"{metadata.version('userlog')}/{FOLD_VERSION}"


@contextlib.asynccontextmanager
async def exclusive(connection: Connection) -> AsyncGenerator[None]:
    """Keep other rebuilds away; RebuildRunningError if there is one."""
    with database_errors():
        if not await connection.fetchval(_SQL["rebuild_lock"]):
            msg = "another rebuild is running; `userlog status --watch` shows how far it is"
            raise RebuildRunningError(msg)
        yield


async def active(connection: Connection) -> int:
    """Return the number of the active generation."""
    number: int = await connection.fetchval(_SQL["active"])
    return number


async def resume(connection: Connection) -> int | None:
    """Resume the unfinished generation, if this version of the code has begun it."""
    for number in await checkpoints.generations(connection, "building"):
        if await connection.fetchval(_SQL["generation_resume"], number, code_version()):
            return number
    return None


async def create(connection: Connection, plan: Sequence[Shard]) -> int:
    """Make the tables of a new generation, without indexes, and write down what is to be loaded."""
    try:
        async with connection.transaction():
            number: int = await connection.fetchval(
                _SQL["generation_new"], code_version(), FOLD_VERSION
            )
            for table in TABLES:
                part = f"{table.name}_g{number}"
                # The check spares ATTACH a look at every row.
                await connection.execute(
                    f"CREATE TABLE {part} (LIKE {table.name}"
                    " INCLUDING ALL EXCLUDING INDEXES,"
                    f" CONSTRAINT {part}_only CHECK (generation = {number}))"
                )
                for row in await connection.fetch(_SQL["generation_uncounted"], table.name, part):
                    await connection.execute(row["statement"])
            await shards.store_plan(connection, number, plan)
    except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError) as error:
        msg = "another rebuild has just begun"
        raise RebuildRunningError(msg) from error
    return number


async def set_phase(connection: Connection, number: int, phase: str) -> None:
    """Record the phase of a rebuild."""
    if await connection.fetchval(_SQL["generation_phase"], number, phase) is None:
        raise _gone(number)


def _gone(number: int) -> LogError:
    return LogError(f"generation {number} was removed, or flipped to, while it was being built")


async def finish(connection: Connection, number: int) -> None:
    """Give a loaded generation its indexes, and make it a part of the read models."""
    attached = {table for table, is_attached in await _tables(connection, number) if is_attached}
    for table in TABLES:
        if table.name not in attached:
            await _index(connection, number, table.name)
            await connection.execute(f"ANALYZE {table.name}_g{number}")
    async with _locked(connection, number):
        if not attached:
            await numbers.fill(connection, number)
        for table in TABLES:
            if table.name not in attached:
                await _attach(connection, number, table.name)
        if not attached:
            await connection.execute(_SQL["generation_start"], number)


@contextlib.asynccontextmanager
async def _locked(connection: Connection, number: int) -> AsyncGenerator[None]:
    async with connection.transaction():
        if await connection.fetchval(_SQL["generation_hold"], number) is None:
            raise _gone(number)
        yield


async def _index(connection: Connection, number: int, table: str) -> None:
    part = f"{table}_g{number}"
    async with _locked(connection, number):
        for row in await connection.fetch(_SQL["generation_indexes"], table, part):
            await connection.execute(row["statement"])


async def _attach(connection: Connection, number: int, table: str) -> None:
    """Attaching, unlike CREATE TABLE … PARTITION OF, waits for no reader and stops none."""
    part = f"{table}_g{number}"
    await connection.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES IN ({number})"
    )
    await connection.execute(f"ALTER TABLE {part} DROP CONSTRAINT {part}_only")


async def flip(connection: Connection, number: int, old: int) -> None:
    """Make another generation the active one, in a transaction of the caller's."""
    if await connection.fetchval(_SQL["flip"], number, old) is None:
        msg = f"generation {old} does not answer any more: another rebuild has flipped"
        raise LogError(msg)


async def set_live(connection: Connection, number: int) -> None:
    """Let the projector keep a generation up to date from now on."""
    if await connection.fetchval(_SQL["generation_live"], number) is None:
        raise _gone(number)


async def drop_others(connection: Connection, *kept: int | None) -> list[int]:
    """Remove every generation but these and the active one; return their numbers."""
    spared = {*kept, await active(connection)}
    live = await checkpoints.generations(connection, "live")
    building = await checkpoints.generations(connection, "building")
    with_tables = {number for _, number, _ in await _all_tables(connection)}
    others = sorted(with_tables.union(live, building))
    dropped = [number for number in others if number not in spared]
    for number in dropped:
        await _drop(connection, number)
    return dropped


async def _drop(connection: Connection, number: int) -> None:
    """Remove a generation that is not active; readers that still use it are waited for."""
    for forget in ("generation_forget", "checkpoints_forget", "shards_forget"):
        await connection.execute(_SQL[forget], number)
    await parked.forget_generation(connection, number)
    await numbers.forget(connection, number)
    for table, attached in await _tables(connection, number):
        if attached:
            await _detach(connection, table, f"{table}_g{number}")
        await connection.execute(f"DROP TABLE {table}_g{number}")


async def _detach(connection: Connection, table: str, part: str) -> None:
    detach = f"ALTER TABLE {table} DETACH PARTITION {part}"
    try:
        await connection.execute(f"{detach} CONCURRENTLY")
    except asyncpg.ObjectNotInPrerequisiteStateError:  # begun by a rebuild that died in it
        await connection.execute(f"{detach} FINALIZE")


async def _tables(connection: Connection, number: int) -> list[tuple[str, bool]]:
    """Return a generation's tables, and whether they are attached."""
    return [(name, is_in) for name, n, is_in in await _all_tables(connection) if n == number]


async def _all_tables(connection: Connection) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    for row in await connection.fetch(_SQL["generation_tables"], [table.name for table in TABLES]):
        table, _, number = row["relname"].rpartition("_g")
        found.append((table, int(number), row["attached"]))
    return found
