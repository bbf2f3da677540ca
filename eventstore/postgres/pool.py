"""Pools of connections."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import NOT_KEPT, LoginError, database_errors
from eventstore.postgres import failover, sessions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventstore.postgres.sessions import Connection

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

TAKEOVER_S = 30.0
_PROBE = "userlog.probe"
_PROBES = 3


class Database:
    """A pool's connections, each for a piece of work; UnavailableError if the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Yield a connection, for what has to be read or written beside the log."""
        with database_errors():
            async with self._pool.acquire() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Yield a connection in a transaction, so that rows can be written beside the log's."""
        with database_errors():
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[Connection]:
        """Yield a connection that sees the database as it is at its first look; it can't write."""
        with database_errors():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield connection


async def open_pool(
    url: str, *, size: int, timeout_s: float, takeover_s: float = TAKEOVER_S
) -> Pool:
    """Open a pool of the service; `timeout_s` bounds every statement and every connecting.

    What a connection holds, the server takes back `takeover_s` after its process has frozen or its
    host has gone. LoginError if the server refuses the login, or a pooler does not keep sessions.
    """
    how = {
        "command_timeout": timeout_s,
        "init": partial(sessions.set_up_service, takeover_s=takeover_s),
        "reset": _keep,
    }
    return await _open(url, size, timeout_s, how)


async def open_owner_pool(
    url: str, *, size: int, timeout_s: float, schema: str = sessions.SCHEMA
) -> Pool:
    """Open a pool of the schema's owner, for making, filling and dropping tables as a whole.

    A statement takes as long as it takes; `timeout_s` bounds connecting. `schema` is where the read
    models are. LoginError as for the service.
    """
    how = {"setup": partial(sessions.set_up_owner, schema=schema)}
    return await _open(url, size, timeout_s, how)


@contextlib.asynccontextmanager
async def owner_connection(
    url: str, timeout_s: float, schema: str = sessions.SCHEMA, statement_s: float | None = None
) -> AsyncGenerator[Connection]:
    """Yield a connection for the work of the schema's owner, as of such a pool.

    `statement_s` bounds every statement, for who only looks.
    """
    with database_errors():
        connection = await failover.connect(url, timeout=timeout_s, command_timeout=statement_s)
        try:
            await sessions.set_up_owner(connection, schema)
            yield connection
        finally:
            await connection.close(timeout=timeout_s)


async def _open(url: str, size: int, timeout_s: float, how: dict[str, Any]) -> Pool:
    connect: Any = failover.connect  # the stubs want a default for every argument
    with database_errors():
        pool = await asyncpg.create_pool(
            url, connect=connect, min_size=1, max_size=size, timeout=timeout_s, **how
        )
        try:
            async with pool.acquire() as one, pool.acquire() as other:
                await refuse_transaction_pooler(one, other)
        except BaseException:
            pool.terminate()
            raise
    return pool


async def _keep(_connection: Connection) -> None:
    """Spare every statement a second round trip: the service leaves nothing behind in a session.

    The driver itself has ended a transaction that was left open.
    """


async def refuse_transaction_pooler(one: Connection, other: Connection) -> None:
    """LoginError if a pooler gives each transaction another session.

    What one session was set to is looked for while another client has a transaction open, which
    such a pooler gives the session that was last free.
    """
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
