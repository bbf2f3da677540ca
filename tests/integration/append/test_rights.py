"""Who may do what with the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from api.web.tokens import Scope, Tokens
from api.webhook.decode import decode
from eventstore.errors import RightsError
from eventstore.events import Outcome
from eventstore.log import EventLog
from eventstore.postgres import schema
from eventstore.sealing.keys import MasterKey
from tests.conftest import MASTER_KEY, Stack
from tests.support.database import connected, positions
from tests.support.events import BY
from tests.support.server import with_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.server import Server

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
    "INSERT INTO userlog.tokens (id, hash, name, scopes) VALUES ('x', '', 'x', '{admin}')",
    "UPDATE userlog.tokens SET scopes = '{admin}'",
    "UPDATE userlog.tokens SET revoked_at = NULL",
    "DELETE FROM userlog.tokens",
    "INSERT INTO userlog.audit SELECT * FROM userlog.audit",
    "UPDATE userlog.audit SET sealed = ''",
    "DELETE FROM userlog.audit",
    "TRUNCATE userlog.audit",
    "UPDATE userlog.audit_head SET number = 0",
    "UPDATE userlog.active_generation SET generation = 9",
    "UPDATE userlog.generations SET state = 'live'",
    "DROP FUNCTION userlog.append",
    "ALTER TABLE userlog.events DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    "SET ROLE userlog_test_owner",
    "SET SESSION AUTHORIZATION userlog_test_owner",
]


# The fingerprint of the master key that the log is written with.
_KEY = "(SELECT fingerprint FROM userlog.log_head)"


@pytest.mark.parametrize("statement", CHANGES)
@pytest.mark.parametrize(
    "before", ["", "RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION"]
)
async def test_the_service_has_no_right_to_change_the_log(
    rights: Stack, statement: str, before: str
) -> None:
    """The service's login can append and erase through functions, and no more, whatever it sets."""
    async with rights.pool.acquire() as connection:
        if before:
            await connection.execute(before)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.fixture(scope="module")
async def rights(server: Server) -> AsyncIterator[Stack]:
    """An open userlog with an event and a token in it, and a role beside the service's."""
    async with server.database(1) as url:
        stack = await Stack.open(url)
        await stack.ingest.deliver(SAMPLE)
        await Tokens(stack.admin, MasterKey(MASTER_KEY)).create("x", [Scope.READ], None)
        await stack.admin.execute(_OWNER)
        yield stack
        await stack.close()


_OWNER = """
DO $$
BEGIN
    CREATE ROLE userlog_test_owner SUPERUSER;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END
$$
"""


@pytest.mark.parametrize("source", ["service", "owner"])
async def test_nobody_sets_the_clock_forward(stack: Stack, source: str) -> None:
    """A given recorded_at that is more than five minutes ahead is refused, and no other."""
    pool = stack.pool if source == "service" else stack.admin
    log = await EventLog.open(pool, MasterKey(MASTER_KEY))
    (event,) = decode(SAMPLE).events
    now = datetime.now(UTC)
    for ahead in (timedelta(minutes=6), datetime(9999, 1, 1, tzinfo=UTC) - now):
        late = msgspec.structs.replace(event, recorded_at=now + ahead)
        with pytest.raises(asyncpg.DatetimeFieldOverflowError, match="five minutes ahead"):
            await log.append([late])
    assert await positions(stack.admin) == []
    stream = log.stream("app", "1")
    soon = msgspec.structs.replace(event, recorded_at=now + timedelta(minutes=4))
    assert (await log.append([soon]))[0].outcome is Outcome.APPENDED
    with pytest.raises(asyncpg.DatetimeFieldOverflowError, match="five minutes ahead"):
        await log.erase(stream, BY, recorded_at=now + timedelta(days=1))
    assert not await log.is_erased(stream)


async def test_no_erasure_without_its_event(stack: Stack) -> None:
    """With an identity that is in the log already it is refused as a whole."""
    await stack.ingest.deliver(SAMPLE)
    known = await stack.pool.fetchrow("SELECT stream_id, identity FROM userlog.events")
    assert known
    with pytest.raises(asyncpg.UniqueViolationError, match="identity of another event"):
        await stack.pool.execute(
            f"SELECT userlog.erase(0, {_KEY}, '9999-01-01', $1, 1, $2, '12345678',"
            " '', '', NULL, '')",
            *known,
        )
    assert not await stack.log.is_erased(stack.log.stream("app", "1"))


async def test_no_time_that_no_calendar_has(stack: Stack) -> None:
    """It could never be read again, and would end every proof of the log."""
    (event,) = decode(SAMPLE).events
    await stack.log.append([event])
    with pytest.raises(asyncpg.DatetimeFieldOverflowError, match="calendar"):
        await stack.pool.execute(
            f"SELECT userlog.append(0, {_KEY}, NULL, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',"
            " ARRAY[stream_id],"
            " ARRAY[key_id], '{2}', '{-infinity}', ARRAY['1234567890123456'::bytea],"
            " ARRAY['12345678'::bytea], ARRAY['x'::bytea]) FROM userlog.streams"
        )


async def test_a_head_that_is_ahead_refuses_nothing(stack: Stack) -> None:
    """After the clock was set back the log goes on, at the time of its head."""
    await stack.admin.execute("UPDATE userlog.log_head SET recorded_at = now() + interval '1 day'")
    assert (await stack.log.append(decode(SAMPLE).events))[0].outcome is Outcome.APPENDED


async def test_the_login_may_be_an_owner_or_a_member(empty_database_url: str) -> None:
    """Any other is refused with the statement that mends it."""
    async with connected(empty_database_url) as admin:
        await schema.install(admin)
        await admin.execute("CREATE ROLE userlog_test_anyone LOGIN")
        try:
            async with connected(with_user(empty_database_url, "userlog_test_anyone")) as anyone:
                with pytest.raises(RightsError, match="GRANT userlog_app TO userlog_test_anyone"):
                    await schema.check(anyone)
                await admin.execute("GRANT userlog_app TO userlog_test_anyone")
                assert not (await schema.check(anyone)).as_owner
            assert (await schema.check(admin)).as_owner
        finally:
            await admin.execute("DROP ROLE userlog_test_anyone")


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
                        "SELECT userlog.erase(0, NULL, NULL, gen_random_uuid(), 1, '', '', '', '',"
                        " NULL, '')"
                    )
            await connection.execute("RESET ROLE")
            await connection.execute("REVOKE ALL ON SCHEMA userlog FROM userlog_test_stranger")
            await connection.execute("DROP ROLE userlog_test_stranger")
    finally:
        await connection.close()


async def test_a_login_that_may_create_no_role_installs(empty_database_url: str) -> None:
    """As docs/operations.md says: an administrator has made the role, and nobody is a member."""
    async with connected(empty_database_url) as admin, admin.transaction():
        await admin.execute(f"""
            DO $$ BEGIN CREATE ROLE userlog_app; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            CREATE ROLE userlog_test_login;
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
