"""Connections and the schema: open a pool, install `schema.sql`, refuse what does not fit."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import SchemaError, database_errors
from eventstore.postgres import failover

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

SCHEMA_VERSION = 1
APPLICATION_ROLE = "userlog_app"
SERVER_VERSION_MIN = 15
TAKEOVER_S = 30.0
_INSTALL_LOCK = 0x757365726C6F67
"""Advisory lock number: only keeps two installers apart, nothing later depends on it."""


def schema_path() -> Path:
    """Find `schema.sql`: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).parents[1]
    for path in (here / "schema.sql", here.parent / "schema.sql"):
        if path.is_file():
            return path
    msg = f"schema.sql is neither in {here} nor above it; the installation is incomplete"
    raise SchemaError(msg)


def guard_path() -> Path:
    """Find `guard.sql`, which has what only a single server has."""
    return Path(__file__).with_name("guard.sql")


def statements(path: Path) -> list[str]:
    """Split a file of ours at its blank lines, so that each statement can be sent alone."""
    parts = path.read_text(encoding="utf-8").split("\n\n")
    return [part for part in parts if any(not line.startswith("--") for line in part.splitlines())]


async def open_pool(
    url: str,
    *,
    size: int,
    timeout_s: float,
    takeover_s: float = TAKEOVER_S,
    owner: bool = False,
) -> Pool:
    """Open a pool of connections; `timeout_s` bounds every statement and every connecting.

    They work as `userlog_app`, which can't change the log but through its functions; as the
    `owner` of the schema only where tables are made, filled and dropped as a whole, which takes as
    long as it takes. What a connection of the service holds, the server takes back `takeover_s`
    after its process has frozen or its host has gone.
    """
    connect: Any = failover.connect  # the stubs want a default for every argument
    with database_errors():
        return await asyncpg.create_pool(
            url,
            connect=connect,
            min_size=1,
            max_size=size,
            timeout=timeout_s,
            command_timeout=None if owner else timeout_s,
            init=None if owner else _become_application,
            server_settings=None if owner else _bounds(takeover_s) | _LOOK_UPS,
            setup=_end_with_client if owner else None,
            reset=None if owner else _keep,
        )


def _bounds(after_s: float) -> dict[str, str]:
    """Let the server end a session whose client has frozen in a transaction, or is not there.

    The first bounds a transaction that waits for its client; with the others the server finds out
    that the client is gone, or does not take its answer. What they miss,
    `projections.project.stuck_sessions` ends; it knows the service's sessions by their name.
    """
    milliseconds, seconds = str(math.ceil(after_s * 1000)), str(math.ceil(after_s))
    return {
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_user_timeout": milliseconds,
        "tcp_keepalives_idle": seconds,
        "tcp_keepalives_interval": seconds,
        "client_connection_check_interval": milliseconds,
        "application_name": "userlog",
    }


_LOOK_UPS = {"enable_seqscan": "off", "enable_bitmapscan": "off"}
"""Everything that the service asks has its index. Of a table that was empty when it was last looked
at, the planner would sooner read all, and it keeps such a plan however much the table grows."""

_KEEP_PLANS = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false)
WHERE to_regproc('userlog.refuse_change') IS NOT NULL
"""
"""A plan is made once for each statement and session. Left to itself PostgreSQL makes some anew for
each call, which takes longer than the call. Not where guard.sql is left out: a distributed server
chooses by the plan where to ask."""


async def _become_application(connection: Connection) -> None:
    await connection.execute(f"SET ROLE {APPLICATION_ROLE}; {_KEEP_PLANS}")


async def _keep(_connection: Connection) -> None:
    """Spare every statement a second round trip: the service leaves nothing behind in a session.

    The driver itself has ended a transaction that was left open.
    """


async def _end_with_client(connection: Connection) -> None:
    """Let the server notice a client that died, even while it waits for a lock or works on."""
    with contextlib.suppress(asyncpg.InvalidParameterValueError):  # not on every platform
        await connection.execute("SET client_connection_check_interval = 500")


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
        await _run(connection, schema_path())
        await _add_partitions(connection, partitions)
        with contextlib.suppress(asyncpg.FeatureNotSupportedError):
            async with connection.transaction():
                await _run(connection, guard_path())
    return True


async def _run(connection: Connection, path: Path) -> None:
    try:
        for statement in statements(path):
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        msg = (
            f"this database user may not install {path.name} ({error.args[0]}); it must be able to"
            " create a schema, and the role userlog_app unless an administrator has created it and"
            " granted it to this user"
        )
        raise SchemaError(msg) from error


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
