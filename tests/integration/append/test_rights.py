"""Who may do what with the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.postgres import schema
from tests.support.database import connected

if TYPE_CHECKING:
    from tests.conftest import Stack

CHANGES = [
    "INSERT INTO userlog.events SELECT * FROM userlog.events",
    "UPDATE userlog.events SET kind = 1",
    "DELETE FROM userlog.events",
    "TRUNCATE userlog.events",
    "UPDATE userlog.log_head SET position = 0",
    "DELETE FROM userlog.streams",
    "UPDATE userlog.streams SET data_key = NULL",
    "UPDATE userlog.meta SET partitions = 9",
    "CREATE TABLE userlog.mine (a integer)",
    "DROP TABLE userlog.events",
]


@pytest.mark.parametrize("statement", CHANGES)
async def test_the_service_has_no_right_to_change_the_log(stack: Stack, statement: str) -> None:
    """The role that the service works as can append and erase through functions, and no more."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stack.pool.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE userlog.events SET kind = 1", "DELETE FROM userlog.events", "TRUNCATE userlog.events"],
)
async def test_a_guard_stops_the_owner_too(stack: Stack, statement: str) -> None:
    """On a single server a trigger keeps even the owner from changing events by accident."""
    await stack.ingest.deliver(SAMPLE)
    connection = await asyncpg.connect(stack.url)
    try:
        with pytest.raises(asyncpg.RestrictViolationError, match="the log is immutable"):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_nobody_else_may_call_the_functions(stack: Stack) -> None:
    """A user of the database without the role can neither append nor erase."""
    connection = await asyncpg.connect(stack.url)
    try:
        async with connection.transaction():
            await connection.execute("CREATE ROLE userlog_test_stranger")
            await connection.execute("GRANT USAGE ON SCHEMA userlog TO userlog_test_stranger")
            await connection.execute("SET LOCAL ROLE userlog_test_stranger")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(
                        "SELECT userlog.erase(0, NULL, gen_random_uuid(), 1, '', '')"
                    )
            await connection.execute("RESET ROLE")
            await connection.execute("REVOKE ALL ON SCHEMA userlog FROM userlog_test_stranger")
            await connection.execute("DROP ROLE userlog_test_stranger")
    finally:
        await connection.close()


async def test_a_login_that_may_create_no_role_installs(empty_database_url: str) -> None:
    """As docs/operations.md says: an administrator has created the role and granted it."""
    async with connected(empty_database_url) as admin, admin.transaction():
        await admin.execute(f"""
            DO $$ BEGIN CREATE ROLE userlog_app; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            CREATE ROLE userlog_test_login;
            GRANT userlog_app TO userlog_test_login;
            GRANT CREATE ON DATABASE {await admin.fetchval("SELECT current_database()")}
                TO userlog_test_login;
            SET LOCAL ROLE userlog_test_login;
        """)
        assert await schema.install(admin)
        await admin.execute("RESET ROLE; DROP OWNED BY userlog_test_login CASCADE")
        await admin.execute("DROP ROLE userlog_test_login")


SAMPLE = (
    b'{"event": {"name": "user", "type": "create", "created_timestamp": 1686649727621},'
    b' "application_id": "app", "payload": [{"user": {"user_id": "1"}}]}'
)
