"""Upgrades: from each released schema to this one, in place, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventstore.errors import LogError, OtherVersionError, SchemaError, WrongKeyError
from eventstore.postgres import schema, upgrade
from eventstore.sealing.keys import MasterKey
from eventstore.verify.whole import verify
from projections.project import parked
from projections.project.projector import catch_up
from projections.rebuild.log_source import LogSource
from projections.rebuild.rebuild import Plan, prove_all, rebuild
from projections.upgrade import Watcher, drop_unfinished, upgrade_schema
from tests.conftest import MASTER_KEY, Stack
from tests.support.database import blocked, connected, holding
from tests.support.deliveries import APP, delivery
from tests.support.events import BY, only
from tests.support.older import (
    ERASED,
    OLDEST,
    PARKED,
    PARKED_SINCE,
    USERS,
    catalogue,
    fill,
    install,
    log_rows,
    older_database,
    older_log,
)
from tests.support.server import with_user
from tests.support.waiting import meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from tests.support.server import Server

NOW = schema.SCHEMA_VERSION
SERVICE = {"application_name": "userlog"}
# Tables of the oldest version that are no read models.
KEPT = {"events", "log_head", "meta", "quarantine", "scrubs", "streams", "tokens", "verifications"}


class Listening(Watcher):
    """Keeps what it is told; calls `at` with the number of each statement."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        self.said: list[str] = []
        self.executed = 0
        self._at = at

    def say(self, text: str) -> None:
        self.said.append(text)

    def execute(self, statement: str) -> None:
        self._at(self.executed)
        self.executed += 1


def source_of(url: str) -> LogSource:
    """How the owner opens the log."""
    return LogSource(url, MASTER_KEY, None, 30)


async def version(source: Any) -> int:
    """Return the version that a database says."""
    found: int = await source.fetchval("SELECT schema_version FROM userlog.meta")
    return found


@pytest.fixture(params=[OLDEST], ids=["oldest"])
def released(request: pytest.FixtureRequest) -> int:
    """The version that is upgraded."""
    number: int = request.param
    return number


@pytest.fixture
async def old_url(server: Server, partitions: int, released: int) -> AsyncIterator[str]:
    """The URL of a database of an earlier version with something of everything in it."""
    async with older_database(server, released, partitions) as url:
        yield url


@pytest.mark.parametrize("released", range(OLDEST, NOW), indirect=True)
@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_equals_a_new_installation(
    server: Server,
    old_url: str,
    released: int,
    partitions: int,
    open_stack: Callable[[str], Awaitable[Stack]],
) -> None:
    """Schema and upgrades of each version are what this version installs; the log is untouched."""
    async with connected(old_url) as admin, server.database(partitions) as new_url:
        before = await log_rows(admin)
        done = await upgrade_schema(source_of(old_url), 1, Watcher())
        assert done
        assert (done.before, done.after, done.parked) == (released, NOW, 1)
        assert await log_rows(admin) == before
        async with connected(new_url) as other:
            assert await catalogue(admin) == await catalogue(other)
        assert await upgrade_schema(source_of(old_url), 1, Watcher()) is None
    stack = await open_stack(old_url)
    findings = await verify(stack.log, notes=[], progress=lambda _done, _all: None)
    broken = [found.position.number for found in findings]
    parked_at = await parked.reason_for(stack.pool, stack.log.stream(APP, PARKED))
    assert parked_at
    assert broken == [parked_at[0].number], "only the event that the test has altered"
    assert parked_at[2].isoformat(" ")[:16] == PARKED_SINCE[:16]
    await catch_up(stack.log, 1_000)
    # `fill` has made no row of the parked user, which an upgrade that fills read models makes.
    kept = not any(step.makes_read_models for step in upgrade.steps_after(released))
    await _answers(stack, {ERASED, PARKED} if kept else {ERASED})


async def _answers(stack: Stack, absent: set[str]) -> None:
    found = {
        user: await stack.read_model.user(stack.log.stream(APP, user))
        for user in (f"u{number}" for number in range(USERS))
    }
    assert {user for user, state in found.items() if state is None} == absent
    assert await stack.quarantine.count() == 3
    totals = await stack.pool.fetchrow("SELECT sum(deliveries), sum(bytes) FROM quarantine_totals")
    counted = await stack.pool.fetchrow("SELECT count(*), sum(bytes) FROM quarantine")
    assert totals == counted
    await stack.log.append([only(delivery("u1", "update", 99, first_name="new"))])
    assert await catch_up(stack.log, 10) == 1
    proof = await prove_all(stack.source, Plan(), lambda _done, _all: None)
    assert (proof.users, proof.differing) == (USERS - 1, 0), "all but the parked"


@pytest.mark.parametrize("released", range(OLDEST, NOW), indirect=True)
async def test_stopped_at_any_statement(
    server: Server, old_url: str, released: int, partitions: int
) -> None:
    """Wherever it stops, it is still the old version, and another try ends the same."""

    class StopError(Exception):
        pass

    last = 0

    def stop(number: int) -> None:
        if number == last:
            raise StopError

    async with connected(old_url) as admin, server.database(partitions) as new_url:
        before = await log_rows(admin)
        while True:
            try:
                await upgrade_schema(source_of(old_url), 1, Listening(stop))
            except StopError:
                assert await version(admin) == released
                assert await log_rows(admin) == before
                parked_in = "set_aside" if released == OLDEST else "parked"
                assert await admin.fetchval(f"SELECT count(*) FROM userlog.{parked_in}") == 1
            else:
                break
            last += 3 if released == OLDEST else 1  # each costs the opening of three logs
        statements = sum(len(step.statements) for step in upgrade.steps_after(released))
        assert last >= statements
        async with connected(new_url) as other:
            assert await catalogue(admin) == await catalogue(other)


async def test_filled_once(old_url: str) -> None:
    """What is filled and proven is not filled again; what other code has begun is thrown away."""
    first, second = Listening(_refuse), Listening(_refuse)
    for watcher in (first, second):
        with pytest.raises(LogError, match="stopped"):
            await upgrade_schema(source_of(old_url), 1, watcher)
    assert len(first.said) == 2
    assert first.said[1].endswith("all equal to the log")
    assert second.said == []
    async with connected(old_url) as admin:
        await admin.execute("COMMENT ON SCHEMA userlog_next IS 'proven by something else'")
        await admin.execute("DELETE FROM userlog_next.users")
        third = Listening()
        assert await upgrade_schema(source_of(old_url), 1, third)
        assert third.said == first.said
        assert await admin.fetchval("SELECT count(*) FROM userlog.users") == USERS - 1


def _refuse(_number: int) -> None:
    raise LogError("stopped by the test")


@pytest.fixture
async def waiting(old_url: str) -> AsyncIterator[tuple[Any, Listening, asyncio.Task[Any]]]:
    """An upgrade that waits for a service of the old version, whose session is yielded too."""
    watcher = Listening()
    service = await asyncpg.connect(old_url, server_settings=SERVICE)
    async with meanwhile(upgrade_schema(source_of(old_url), 1, watcher)) as upgrading:
        await until(lambda: any("stop all services" in text for text in watcher.said))
        yield service, watcher, upgrading
    await service.close()


async def test_the_old_version_goes_on_meanwhile(
    waiting: Any, old_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Until its services are stopped they append, erase and read; the switch has all of it."""
    service, watcher, upgrading = waiting
    async with older_log(old_url) as log:
        await log.append([only(delivery("u1", "update", 50, first_name="late"))])
        await log.append([only(delivery("other", "create", 51, first_name="new"))])
        await log.erase(log.stream(APP, "u2"))
    assert await service.fetchval("SELECT count(*) FROM userlog.set_aside") == 1
    assert await version(service) == OLDEST
    assert watcher.executed == 0
    await service.close()
    done = await upgrading
    assert (done.before, done.after) == (OLDEST, NOW)
    stack = await open_stack(old_url)
    heads = {head.position for head in await stack.log.heads()}
    rows = await stack.pool.fetch("SELECT partition, position FROM checkpoints")
    assert {(row["partition"], row["position"]) for row in rows} == set(heads)
    assert not await stack.pool.fetchval("SELECT count(*) FROM users WHERE user_id = 'u2'")
    for user_id, name in (("u1", "late"), ("other", "new")):
        found = await stack.read_model.user(stack.log.stream(APP, user_id))
        assert found
        assert name.encode() in bytes(found.state)
    proof = await prove_all(stack.source, Plan(), lambda _done, _all: None)
    assert proof.differing == 0, "also in the numbers, which the old version knows nothing of"


async def erase(url: str, released: int) -> None:
    """Erase somebody as a version does."""
    async with older_log(url, released) as log:
        await log.erase(log.stream(APP, "u2"))


def begun(work: Coroutine[Any, Any, None]) -> threading.Thread:
    """Begin work in a thread: who calls this is waited for by the event loop."""
    thread = threading.Thread(target=lambda: asyncio.run(work))
    thread.start()
    return thread


@pytest.mark.parametrize("released", [3])
async def test_erased_before_it_is_proven(server: Server, partitions: int, released: int) -> None:
    """An erasure between filling and proving goes through, and the upgrade ends well."""

    async def stop_at_the_proof() -> None:
        async with connected(url) as admin:
            await admin.execute(
                "CREATE FUNCTION public.stop() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END';"
                " CREATE TRIGGER stop BEFORE UPDATE ON userlog_next.generations FOR EACH ROW"
                " WHEN (NEW.phase = 'proving') EXECUTE FUNCTION public.stop()"
            )

    class Stopping(Watcher):
        def say(self, text: str) -> None:
            if text.startswith("new read models are filled"):
                begun(stop_at_the_proof()).join()

    async with older_database(server, released, partitions) as url, connected(url) as admin:
        await admin.execute("SELECT pg_advisory_lock(7)")
        async with meanwhile(upgrade_schema(source_of(url), 1, Stopping())) as upgrading:
            await blocked(admin)
            await erase(url, released)
            await admin.execute("SELECT pg_advisory_unlock(7)")
            assert await upgrading
        proof = await prove_all(source_of(url), Plan(), lambda _done, _all: None)
    assert proof.differing == 0


@pytest.mark.parametrize("released", [3])
async def test_an_erasure_waits_for_the_switch(
    server: Server, partitions: int, released: int
) -> None:
    """It goes on with the function it has begun with, which knows nothing of the numbers."""
    erasing: list[threading.Thread] = []

    async def is_waiting() -> None:
        async with connected(url) as admin:
            await blocked(admin)

    def begin(number: int) -> None:
        if number == 0:
            erasing.append(begun(erase(url, released)))
            begun(is_waiting()).join()

    async with older_database(server, released, partitions) as url:
        await upgrade_schema(source_of(url), 1, Listening(begin))
        await asyncio.to_thread(erasing[0].join)
        proof = await prove_all(source_of(url), Plan(), lambda _done, _all: None)
    assert proof.differing == 0


async def test_only_one_at_a_time(waiting: Any, old_url: str) -> None:
    """Another upgrade of the database is refused meanwhile."""
    with pytest.raises(upgrade.UpgradeRunningError):
        await upgrade_schema(source_of(old_url), 1, Watcher())


async def test_a_long_reader_stops_no_append(old_url: str) -> None:
    """The switch waits for who reads the old tables, and lets appends pass between two tries."""
    watcher = Listening()
    upgrading = upgrade_schema(source_of(old_url), 1, watcher)
    async with contextlib.AsyncExitStack() as stack:
        lock = "LOCK TABLE userlog.users IN ACCESS SHARE MODE"
        reader = await stack.enter_async_context(holding(old_url, lock))
        task = await stack.enter_async_context(meanwhile(upgrading))
        await until(lambda: any("something long" in text for text in watcher.said))
        async with older_log(old_url) as log:
            await log.append([only(delivery("u1", "update", 50))])
        assert await version(reader) == OLDEST
        assert not task.done()
        await reader.execute("COMMIT")
        done = await task
        assert done
        assert done.after == NOW
        await reader.execute("BEGIN")


async def test_what_depends_on_an_old_table_is_named(old_url: str) -> None:
    """A view of the operator's stops the switch, with its name, and not what was filled."""
    async with connected(old_url) as admin:
        await admin.execute("CREATE VIEW public.mine AS SELECT user_id FROM userlog.users")
        with pytest.raises(LogError, match=r"view public\.mine depends on .* take it away"):
            await upgrade_schema(source_of(old_url), 1, Watcher())
        assert await version(admin) == OLDEST
        await admin.execute("DROP VIEW public.mine")
        watcher = Listening()
        assert await upgrade_schema(source_of(old_url), 1, watcher)
        assert watcher.said == []


@pytest.mark.parametrize("damage", ["DROP TABLE userlog.scrubs", "DROP FUNCTION userlog.erase"])
async def test_an_unreleased_schema_is_refused(old_url: str, damage: str) -> None:
    """Earlier schemas called themselves version 1 too; what is missing is named."""
    async with connected(old_url) as admin:
        await admin.execute(damage)
        with pytest.raises(SchemaError, match=rf"{damage.rpartition('.')[2]} is missing"):
            await upgrade_schema(source_of(old_url), 1, Watcher())
        assert await admin.fetchval("SELECT to_regnamespace('userlog_next')") is None


async def test_a_wrong_key_changes_nothing(old_url: str) -> None:
    """It is refused before anything is made: under it every user would be unreadable."""
    wrong = LogSource(old_url, b"w" * 32, None, 30)
    with pytest.raises(WrongKeyError):
        await upgrade_schema(wrong, 1, Watcher())
    async with connected(old_url) as admin:
        assert await admin.fetchval("SELECT to_regnamespace('userlog_next')") is None


async def test_begun_with_another_master_key(old_url: str) -> None:
    """After a rotation an upgrade does not go on with what it has begun, and says what to do."""
    with pytest.raises(LogError, match="stopped"):
        await upgrade_schema(source_of(old_url), 1, Listening(_refuse))
    async with connected(old_url) as owner:
        other = MasterKey(b"another master key of just 32 b.")
        wrapped = other.wrap_secret(bytes(32), b"search")
        await owner.execute("UPDATE userlog_next.own_keys SET wrapped = $1", wrapped)
    with pytest.raises(LogError, match="userlog upgrade --drop"):
        await upgrade_schema(source_of(old_url), 1, Listening())
    assert await drop_unfinished(source_of(old_url))
    assert await upgrade_schema(source_of(old_url), 1, Listening())


async def test_who_was_readable_is_not_parked_in_silence(old_url: str) -> None:
    """A user who would be parked, and was not, stops the switch, unless that is asked for."""
    async with connected(old_url) as admin:
        await admin.execute("DELETE FROM userlog.set_aside")
        for _ in range(2):
            with pytest.raises(LogError, match=r"1 users .* would be parked"):
                await upgrade_schema(source_of(old_url), 1, Watcher())
        assert await version(admin) == OLDEST
        assert await drop_unfinished(source_of(old_url))
        assert not await drop_unfinished(source_of(old_url))
        done = await upgrade_schema(source_of(old_url), 1, Watcher(), parking=True)
    assert done
    assert done.parked == 1


@pytest.mark.parametrize(
    "taken", ["TABLE userlog.parked (a int)", "FUNCTION userlog.token_revoke(in_id text)", "SCHEMA"]
)
async def test_names_that_are_taken(old_url: str, taken: str) -> None:
    """What an operator has made with a name that is needed is named first, and stays."""
    body = " RETURNS text LANGUAGE sql AS 'SELECT 1::text'" if "FUNCTION" in taken else ""
    made = f"{taken} userlog_next" if taken == "SCHEMA" else taken
    async with connected(old_url) as admin:
        await admin.execute(f"CREATE {made}{body}")
        watcher = Listening()
        with pytest.raises(SchemaError, match="userlog did not make"):
            await upgrade_schema(source_of(old_url), 1, watcher)
        await admin.execute(f"DROP {made.partition(' (')[0]}")


async def test_all_belongs_to_the_owner_of_the_schema(
    empty_database_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Whoever of those who may upgrades or rebuilds: erase() goes on working."""
    async with connected(empty_database_url) as admin:
        name = await admin.fetchval("SELECT current_database()")
        role = f"{name}_owner"
        await admin.execute(
            f"CREATE ROLE {role} LOGIN CREATEROLE; GRANT userlog_app TO {role};"
            f"ALTER DATABASE {name} OWNER TO {role}"
        )
        await install(with_user(empty_database_url, role), OLDEST, 1)
        await fill(empty_database_url)
        assert await upgrade_schema(source_of(empty_database_url), 1, Watcher())
        stack = await open_stack(empty_database_url)
        await rebuild(stack.source, Plan(parking=True))
        owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = $1"
        space = await admin.fetchval("SELECT 'userlog'::regnamespace::oid")
        assert [row[0] for row in await admin.fetch(owners, space)] == [role]
        assert (await stack.log.erase(stack.log.stream(APP, "u1"), BY)).position
        await stack.close()
        await admin.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_an_erasure_reaches_what_an_upgrade_fills(stack: Stack) -> None:
    """The rows of an erased user go from new read models that wait for their switch too."""
    await stack.log.append([only(delivery("u1"))])
    stream = stack.log.stream(APP, "u1")
    async with stack.admin.acquire() as connection:
        await upgrade.make_next(connection, "mark")
    await stack.admin.execute(
        "INSERT INTO userlog_next.terms VALUES (0, 1, $1, '{}', '{}', '{}')", stream.stream_id
    )
    await stack.log.erase(stream, BY)
    assert await stack.admin.fetchval("SELECT count(*) FROM userlog_next.terms") == 0


async def test_no_downgrade(database_url: str) -> None:
    """A database of a later version is refused, with the way out."""
    async with connected(database_url) as admin:
        await admin.execute(f"UPDATE userlog.meta SET schema_version = {NOW + 1}")
    with pytest.raises(OtherVersionError, match="there is no downgrade"):
        await upgrade_schema(source_of(database_url), 1, Watcher())


@pytest.mark.parametrize("released", range(OLDEST, NOW), indirect=True)
async def test_what_is_said_to_be_locked_is(old_url: str, released: int) -> None:
    """`upgrade --plan` names the tables that nobody else can read until the commit."""
    step, *_ = upgrade.steps_after(released)
    with pytest.raises(LogError, match="stopped"):
        await upgrade_schema(source_of(old_url), 1, Listening(_refuse))
    async with connected(old_url) as admin:
        transaction = admin.transaction()
        await transaction.start()
        await upgrade.hold_log(admin)
        await upgrade.switch(admin, [step], lambda _: None)
        rows = await admin.fetch(_LOCKED)
        await transaction.rollback()
    names = step.locks.split(", ")
    assert ("the old read models" in names) == step.makes_read_models
    rest = {"the old read models", "the read models", "keys"}  # of which the oldest has no keys
    assert {row["relname"] for row in rows} & KEPT == {*names} - rest


_LOCKED = """
SELECT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relkind IN ('r', 'p') AND l.mode IN
    ('AccessExclusiveLock', 'RowExclusiveLock', 'ShareRowExclusiveLock', 'RowShareLock')
    AND c.relnamespace = 'userlog'::regnamespace
"""
