"""Pools of connections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import NOT_KEPT, LoginError, database_errors
from eventstore.postgres import failover, sessions

if TYPE_CHECKING:
    from eventstore.postgres.sessions import Connection

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

TAKEOVER_S = 30.0
_PROBE = "userlog.probe"
_PROBES = 3


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

    LoginError if the server refuses the login, or a pooler does not keep sessions.
    """
    connect: Any = failover.connect  # the stubs want a default for every argument
    with database_errors():
        pool = await asyncpg.create_pool(
            url,
            connect=connect,
            min_size=1,
            max_size=size,
            timeout=timeout_s,
            command_timeout=None if owner else timeout_s,
            init=None if owner else partial(sessions.set_up_service, takeover_s=takeover_s),
            setup=sessions.set_up_owner if owner else None,
            reset=None if owner else _keep,
        )
        try:
            await _refuse_transaction_pooler(pool)
        except BaseException:
            pool.terminate()
            raise
    return pool


async def _keep(_connection: Connection) -> None:
    """Spare every statement a second round trip: the service leaves nothing behind in a session.

    The driver itself has ended a transaction that was left open.
    """


async def _refuse_transaction_pooler(pool: Pool) -> None:
    """LoginError if a pooler gives each transaction another session.

    What one session was set to is looked for while another client has a transaction open, which
    such a pooler gives the session that was last free.
    """
    async with pool.acquire() as one, pool.acquire() as other:
        for number in range(_PROBES):
            await one.execute(f"SET {_PROBE} = '{number}'")
            async with other.transaction():
                try:
                    await one.execute(
                        f"SELECT 1 / (coalesce(current_setting('{_PROBE}', true), '')"
                        f" = '{number}')::integer"
                    )
                except asyncpg.DivisionByZeroError:
                    raise LoginError(NOT_KEPT) from None
