"""What the sessions of userlog are set to, whatever server, database or role are set to.

Set after connecting, not while: a pooler refuses what it does not know while connecting.
"""

from __future__ import annotations

import contextlib
import functools
import math
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

SCHEMA = "userlog"
# What the service's login is a member of.
SERVICE_ROLE = "userlog_app"

# How statements are understood. What bounds them is the client's, or below.
_MEANING = {
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "quote_all_identifiers": "off",
    "idle_session_timeout": "0",
}

# docs/planner.md, 1 and 2.
_LOOK_UPS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
_KEEP_PLANS = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false)
WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
"""
_CHECK_S = 0.5
# What a superuser or a member of the owner's role makes belongs to the owner, as whom erase() runs.
_AS_OWNER = f"""
SELECT set_config('role', r.rolname, false)
FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.nspname = '{SCHEMA}' AND r.rolname <> current_user AND pg_has_role(r.oid, 'USAGE')
"""  # noqa: S608 - a name of ours


async def set_up_owner(connection: Connection, schema: str = SCHEMA) -> None:
    """Prepare the session of who makes, fills and drops tables, which takes as long as it takes.

    The statements of projections name read models alone, so they are those of this schema, after
    which the session is named too.
    """
    unbounded = {"idle_in_transaction_session_timeout": "0"}
    await connection.execute(f"{_set(_MEANING | _path(schema) | unbounded)}; {_AS_OWNER}")
    await _notice_client(connection, _CHECK_S)


async def set_up_service(connection: Connection, takeover_s: float) -> None:
    """Prepare a session of the service.

    The server takes back what it holds when its process has frozen or its host has gone: the first
    bound is for a transaction that waits for its client; by the others the server finds out that
    the client is gone, or does not take its answer. What they miss,
    `projections.project.stuck_sessions` ends; it knows the service's sessions by their name.
    """
    milliseconds, seconds = str(math.ceil(takeover_s * 1000)), str(math.ceil(takeover_s))
    bounds = {
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_user_timeout": milliseconds,
        "tcp_keepalives_idle": seconds,
        "tcp_keepalives_interval": seconds,
    }
    settings = _set(_MEANING | _path(SCHEMA) | _LOOK_UPS | bounds)
    await connection.execute(f"{settings}; {_KEEP_PLANS}")
    await _notice_client(connection, takeover_s)


def _path(schema: str) -> dict[str, str]:
    # Only the owner can make anything in the first.
    name = f"{schema} {_own_version()}"
    return {"search_path": f"{schema}, pg_catalog, pg_temp", "application_name": name}


@functools.cache
def _own_version() -> str:
    """Read from a file once: a program that is replaced on disk is still the one that runs."""
    return version("userlog")


def _set(settings: Mapping[str, str]) -> str:
    """Set what this server knows; a later version may know more."""
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    known = "WHERE current_setting(name, true) IS NOT NULL"
    return f"SELECT set_config(name, value, false) FROM (VALUES {values}) t (name, value) {known}"  # noqa: S608


async def _notice_client(connection: Connection, within_s: float) -> None:
    """Let the server notice a client that died, even while it waits for a lock or works on."""
    with contextlib.suppress(asyncpg.InvalidParameterValueError):  # not on every platform
        await connection.execute(
            f"SET client_connection_check_interval = {math.ceil(within_s * 1000)}"
        )
