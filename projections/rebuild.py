"""Rebuild: make the read models again from the log, beside the ones that answer, then flip.

The new generation is filled from the first event on while the old one goes on answering and
following. The flip holds the old generation's checkpoints for a moment, brings the new one to
the same position or beyond, and changes one row; so no reader ever sees the read model go back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg

from eventstore import sql
from eventstore.errors import LogError, database_errors
from projections.projector import generations, project_batch
from projections.tables import TABLES, Generation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from eventstore.database import Connection
    from eventstore.log import EventLog

_SQL = sql.load("projections")
_CATCH_UP_BATCH_MAX = 500


class RebuildRunningError(LogError):
    """Another rebuild is running; one at a time."""


async def rebuild(log: EventLog, *, batch_max: int, progress: Callable[[int, int], None]) -> int:
    """Rebuild users and history; return the number of the generation that answers now.

    `progress` is told (events done, events there were at the start) after each batch.
    RebuildRunningError if another rebuild works on this database. What a rebuild that died left
    behind is removed.
    """
    async with _only_rebuild(log) as connection:
        live = await generations(log, "live")
        for left_over in sorted((await _tables(connection)).keys() - set(live)):
            await _drop(connection, left_over)
        number = await _new_generation(connection)
        await _fill(log, number, batch_max, progress)
        old = await _flip(connection, log, number)
        await _drop(connection, old)
        return number


@contextlib.asynccontextmanager
async def _only_rebuild(log: EventLog) -> AsyncGenerator[Connection]:
    with database_errors():
        async with log.pool.acquire() as connection:
            if not await connection.fetchval(_SQL["rebuild_lock"]):
                msg = "another rebuild is running; `userlog status` shows how far it is"
                raise RebuildRunningError(msg)
            yield connection


async def _new_generation(connection: Connection) -> int:
    async with connection.transaction():
        number: int = await connection.fetchval(_SQL["generation_new"])
        for name in (table.name for table in TABLES):
            # Attaching, unlike CREATE TABLE … PARTITION OF, waits for no reader and stops none.
            await connection.execute(
                f"CREATE TABLE userlog.{name}_g{number} (LIKE userlog.{name} INCLUDING ALL)"
            )
            await connection.execute(
                f"ALTER TABLE userlog.{name} ATTACH PARTITION userlog.{name}_g{number}"
                f" FOR VALUES IN ({number})"
            )
        await connection.execute(_SQL["generation_start"], number)
    return number


async def _fill(
    log: EventLog, number: int, batch_max: int, progress: Callable[[int, int], None]
) -> None:
    heads = await log.heads()
    total = sum(head.position.number for head in heads)
    finished = 0
    for head in heads:
        where = Generation(head.position.partition, number)
        reached = 0
        while reached < head.position.number:
            done = await project_batch(log, where, batch_max)
            if done is None:
                msg = f"generation {number} was removed while it was being built"
                raise LogError(msg)
            reached = done.position.number
            progress(min(finished + reached, total), total)
        finished += head.position.number


async def _flip(connection: Connection, log: EventLog, number: int) -> int:
    """Let the new generation answer; return the number of the one that did."""
    async with connection.transaction():
        old: int = await connection.fetchval(_SQL["active"])
        for partition in range(log.partitions):
            held = await connection.fetchval(_SQL["checkpoint_hold"], partition, "users", old)
            where = Generation(partition, number)
            while (done := await project_batch(log, where, _CATCH_UP_BATCH_MAX)) and (
                done.position.number < held
            ):
                pass
        await connection.execute(_SQL["generation_live"], number)
        await connection.execute(_SQL["flip"], number)
        await connection.execute(_SQL["generation_forget"], old)
        await connection.execute(_SQL["checkpoints_forget"], old)
    return old


async def _tables(connection: Connection) -> dict[int, list[tuple[str, bool]]]:
    """Return each generation's tables, and whether they are attached."""
    found: dict[int, list[tuple[str, bool]]] = {}
    for row in await connection.fetch(_SQL["generation_tables"]):
        table, _, number = row["relname"].rpartition("_g")
        found.setdefault(int(number), []).append((table, row["attached"]))
    return found


async def _drop(connection: Connection, number: int) -> None:
    """Remove a generation that answers nobody; readers that still use it are waited for."""
    await connection.execute(_SQL["generation_forget"], number)
    await connection.execute(_SQL["checkpoints_forget"], number)
    await connection.execute(_SQL["aside_forget"], number)
    for table, attached in (await _tables(connection)).get(number, []):
        if attached:
            await _detach(connection, table, f"{table}_g{number}")
        await connection.execute(f"DROP TABLE userlog.{table}_g{number}")


async def _detach(connection: Connection, table: str, part: str) -> None:
    detach = f"ALTER TABLE userlog.{table} DETACH PARTITION userlog.{part}"
    try:
        await connection.execute(f"{detach} CONCURRENTLY")
    except asyncpg.ObjectNotInPrerequisiteStateError:  # begun by a rebuild that died in it
        await connection.execute(f"{detach} FINALIZE")
