"""Connections and the schema: open a pool, install `schema.sql`, refuse what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import SchemaError, database_errors

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

SCHEMA_VERSION = 1
SERVER_VERSION_MIN = 15
_INSTALL_LOCK = 0x757365726C6F67
"""Advisory lock number: only keeps two installers apart, nothing later depends on it."""


def schema_path() -> Path:
    """Find `schema.sql`: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).parent
    for path in (here / "schema.sql", here.parent / "schema.sql"):
        if path.is_file():
            return path
    msg = f"schema.sql is neither in {here} nor above it; the installation is incomplete"
    raise SchemaError(msg)


def schema_statements() -> list[str]:
    """Split `schema.sql` at its blank lines, so that each statement can be sent alone."""
    parts = schema_path().read_text(encoding="utf-8").split("\n\n")
    return [part for part in parts if any(not line.startswith("--") for line in part.splitlines())]


async def open_pool(url: str, *, size: int, timeout_s: float) -> Pool:
    """Open a pool of connections; `timeout_s` bounds every statement and every connecting."""
    with database_errors():
        return await asyncpg.create_pool(
            url, min_size=1, max_size=size, timeout=timeout_s, command_timeout=timeout_s
        )


async def install(connection: Connection, partitions: int = 1) -> bool:
    """Install the schema unless it is there; return whether this call did it.

    Two callers at once don't collide: one installs, the other finds it installed. SchemaError
    if the server is too old or the database holds a schema of another version.
    """
    server = connection.get_server_version().major
    if server < SERVER_VERSION_MIN:
        msg = f"PostgreSQL {server} is too old; userlog needs {SERVER_VERSION_MIN} or newer"
        raise SchemaError(msg)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _INSTALL_LOCK)
        if await connection.fetchval("SELECT to_regnamespace('userlog') IS NOT NULL"):
            await check(connection)
            return False
        for statement in schema_statements():
            await connection.execute(statement)
        await _add_partitions(connection, partitions)
    return True


async def _add_partitions(connection: Connection, partitions: int) -> None:
    await connection.execute("UPDATE userlog.meta SET partitions = $1", partitions)
    rest = range(1, partitions)
    await connection.execute(
        "INSERT INTO userlog.log_head (partition) SELECT unnest($1::integer[])", rest
    )
    await connection.execute(
        "INSERT INTO userlog.checkpoints (partition, projection, generation)"
        " SELECT unnest($1::integer[]), 'users', 1",
        rest,
    )


async def check(connection: Connection) -> int:
    """Return the number of partitions; SchemaError if the schema is missing or does not fit."""
    if not await connection.fetchval("SELECT to_regnamespace('userlog') IS NOT NULL"):
        msg = "the database has no userlog schema; run `userlog init`"
        raise SchemaError(msg)
    try:
        row = await connection.fetchrow("SELECT schema_version, partitions FROM userlog.meta")
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        row = None
    if row is None:
        msg = "the database's schema `userlog` is not complete; drop it, or use another database"
        raise SchemaError(msg)
    found: Any = row["schema_version"]
    if found != SCHEMA_VERSION:
        msg = (
            f"the database has schema version {found}, this userlog needs {SCHEMA_VERSION};"
            " run the userlog version that belongs to it, or another database"
        )
        raise SchemaError(msg)
    partitions: int = row["partitions"]
    return partitions
