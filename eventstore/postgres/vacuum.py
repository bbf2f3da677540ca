"""Rewrites what held erased users' keys, so that no table file has them any more.

An erasure overwrites a key with nothing; PostgreSQL keeps the old row in the table's file until
the room is used again. Rewriting a table leaves that behind, a checkpoint removes the old file, and
a new segment of the write-ahead log lets the server let go of the old ones. What a transaction from
before the erasure may still read is rewritten with the rest: then it is not done.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.postgres.sessions import Connection

# Where wrapped keys are, and where ANALYZE may have copied them before schema version 5.
TABLES = ("userlog.streams", "userlog.quarantine", "userlog.keys", "pg_catalog.pg_statistic")
_FILE = "SELECT pg_relation_filenode($1::text::regclass)"
# For so long each is waited for before it is tried again: what comes after waits behind it.
_LOCK_S = 2
_TRIES = 10
_STAYS = "{} old versions of rows stay, as a transaction from before may read them"
# Rewritten again in vain, a table keeps appends waiting each time.
_DEAD_TRIES = 3
_PAUSE_S = 1.0


async def rewrite(connection: Connection, doing: Callable[[str], None]) -> list[str]:
    """Rewrite the tables as their owner; return what could not be done, and why.

    `doing` is called before each step. Appends wait while `streams` is rewritten.
    """
    undone: list[str] = []
    await connection.execute(f"SET lock_timeout = '{_LOCK_S}s'")
    for table in TABLES:
        doing(f"rewriting {table}")
        undone += await _rewrite(connection, table)
    for statement, what in (
        ("CHECKPOINT", "a checkpoint, which removes the old files"),
        ("SELECT pg_switch_wal()", "a new segment of the write-ahead log"),
    ):
        doing(what)
        try:
            await connection.execute(statement)
        except asyncpg.PostgresError as error:
            undone.append(f"{what}: {_why(error)}")
    return undone


async def _rewrite(connection: Connection, table: str) -> list[str]:
    before = await connection.fetchval(_FILE, table)
    why = ""
    left = _DEAD_TRIES
    for _ in range(_TRIES):
        try:
            dead = await _vacuum(connection, table)
        except asyncpg.LockNotAvailableError:
            why = "somebody reads or writes it for long"
        except asyncpg.PostgresError as error:
            return [f"{table}: {_why(error)}"]
        else:
            why = _STAYS.format(dead) if dead else ""
            left -= 1
            if not dead or not left:
                break
        await asyncio.sleep(_PAUSE_S)
    # Without the right to it, VACUUM skips a table and says so in a warning.
    if not why and await connection.fetchval(_FILE, table) == before:
        why = "the login may not do it"
    return [f"{table}: {why}"] if why else []


async def _vacuum(connection: Connection, table: str) -> int:
    """Rewrite a table; return how many deleted rows are in it again."""
    details: list[str] = []

    def listen(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
        details.append(getattr(message, "detail", None) or "")

    connection.add_log_listener(listen)
    try:
        await connection.execute(f"VACUUM (FULL, VERBOSE) {table}")
    finally:
        connection.remove_log_listener(listen)
    # Of what it says, one sentence has a detail, which begins with their number in any language.
    return sum(int(found[0]) for detail in details if (found := re.search(r"\d+", detail)))


def _why(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return "the login may not do it"
    return type(error).__name__
