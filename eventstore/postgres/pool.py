"""Pools of connections, and the settings of their sessions."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import database_errors
from eventstore.postgres import failover

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

APPLICATION_ROLE = "userlog_app"
TAKEOVER_S = 30.0

# docs/planner.md, 1.
_LOOK_UPS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}

# docs/planner.md, 2.
_KEEP_PLANS = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false)
WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
"""


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
