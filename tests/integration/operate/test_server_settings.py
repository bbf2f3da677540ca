"""Whatever a database is set to: userlog works there as everywhere, or says in a line why not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from api.config.settings import Settings
from api.runtime import install
from eventstore.errors import SchemaError
from projections.project.projector import catch_up
from tests.support.database import connected
from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES, delivery
from tests.support.server import with_database
from tests.support.serving import SECRETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack
    from tests.support.server import Server

ODD = {
    "default_transaction_isolation": "serializable",
    "timezone": "Asia/Kolkata",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "extra_float_digits": "-15",
    "enable_indexscan": "off",
    "quote_all_identifiers": "on",
    "idle_in_transaction_session_timeout": "1ms",
}


async def _set(url: str, settings: dict[str, str]) -> None:
    async with connected(url) as admin:
        name = await admin.fetchval("SELECT current_database()")
        for setting, value in settings.items():
            await admin.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")


@pytest.fixture
async def odd_stack(
    empty_database_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> Stack:
    """A userlog on a database where everything is set to something else."""
    await _set(empty_database_url, ODD)
    assert await install(empty_database_url, Settings(), SECRETS)
    return await open_stack(empty_database_url)


async def test_odd_settings(odd_stack: Stack, stack: Stack) -> None:
    """Times, texts and bytes are stored and read as on any database."""
    found = []
    for one in (stack, odd_stack):
        for body in (*SAMPLES, delivery("é'\\", first_name="\\x41")):
            assert not (await one.ingest.deliver(body)).quarantined
        assert await catch_up(one.log, 10) == 4
        await one.pool.execute("SELECT pg_sleep(0.2)")
        users = [
            await one.read_model.user(one.log.stream(APP, user)) for user in (SAMPLE_USER, "é'\\")
        ]
        rows = await one.pool.fetch("SELECT kind, occurred_at FROM userlog.events ORDER BY 2, 1")
        found.append(([user and user.state for user in users], [tuple(row) for row in rows]))
    assert found[0] == found[1]


async def test_many_installers_where_all_is_serializable(server: Server) -> None:
    """One installs, the others find it installed, whatever snapshot they began with."""
    for _ in range(5):
        async with server.database() as url:
            await _set(url, {"default_transaction_isolation": "serializable"})
            done = await asyncio.gather(*(install(url, Settings(), SECRETS) for _ in range(4)))
            assert sorted(done) == [False, False, False, True]


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "SQL_ASCII"])
async def test_encodings(
    server: Server, encoding: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """One that can't hold every name is refused by its name; bytes as they are will do."""
    name = f"userlog_test_{encoding.lower()}"
    async with connected(server.url) as admin:
        await admin.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        )
        try:
            url = with_database(server.url, name)
            if encoding != "SQL_ASCII":
                with pytest.raises(SchemaError, match=f"{encoding}.*UTF8"):
                    await install(url, Settings(), SECRETS)
                return
            await install(url, Settings(), SECRETS)
            stack = await open_stack(url)
            await stack.ingest.deliver(delivery("अनुष्का", first_name="अनुष्का"))
            assert await catch_up(stack.log, 10) == 1
            found = await stack.read_model.user(stack.log.stream(APP, "अनुष्का"))
            assert found
            assert "अनुष्का" in bytes(found.state).decode()
            await stack.close()
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_sessions_are_prepared_again(stack: Stack) -> None:
    """A connection that was lost comes back with the same settings."""
    names = ("timezone", "default_transaction_isolation", "search_path", "jit")
    asked = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    before = await stack.pool.fetchrow(asked)
    assert before
    assert tuple(before) == ("UTC", "read committed", "userlog, pg_catalog, pg_temp", "off")
    with pytest.raises(asyncpg.PostgresError):
        await stack.pool.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await stack.pool.fetchrow(asked) == before
