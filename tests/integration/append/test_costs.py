"""What appending and reading on costs, counted by PostgreSQL in rows, not in time."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore import read
from eventstore.append_call import append_batch
from eventstore.events import Position
from eventstore.sealing.keys import Ciphers
from eventstore.sealing.seal import seal
from tests.support.database import statement
from tests.support.deliveries import APP
from tests.support.events import event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventstore.postgres.sessions import Connection
    from tests.conftest import Stack

EVENTS = 40_000
USERS = 1_000
FILL = f"""
INSERT INTO userlog.streams (partition, stream_id, application_id, user_id, key_id, data_key)
SELECT 0, md5(n::text)::uuid, 'app', n::text, n, '' FROM generate_series(1, {USERS}) n;
INSERT INTO userlog.events (partition, kind, position, stream_id, occurred_at, recorded_at,
    identity, digest, leaf, payload)
SELECT 0, 2, n, md5((n % {USERS} + 1)::text)::uuid, 'epoch', 'epoch',
    decode(md5(n::text), 'hex'), '12345678', '12345678', repeat('x', 200)::bytea
FROM generate_series((SELECT position + 1 FROM userlog.log_head), {EVENTS}) n;
UPDATE userlog.log_head SET position = {EVENTS};
"""
LAST = 2**63 - 1
NOW = datetime(2024, 1, 1, tzinfo=UTC)
PROJECTED = f"""
INSERT INTO userlog.users (partition, generation, stream_id, application_id, user_id, lifecycle,
    sealed, tie_break, position, kind, occurred_at, recorded_at)
SELECT 0, 1, stream_id, application_id, user_id, 1, '', '', 1, 2, 'epoch', 'epoch'
FROM userlog.streams;
UPDATE userlog.checkpoints SET position = {EVENTS}
"""
READ = """
SELECT sum(seq_scan) AS scans, sum(coalesce(idx_tup_fetch, 0)) AS rows
FROM pg_stat_xact_user_tables WHERE schemaname = 'userlog' AND relname IN ('events', 'streams')
"""


@contextlib.asynccontextmanager
async def counting(connection: Connection) -> AsyncGenerator[Counter[str]]:
    """Count how often a table is scanned as a whole, and how many rows are fetched."""
    found: Counter[str] = Counter()
    async with connection.transaction():  # only within one are the counts this backend's alone
        before = dict((await connection.fetch(READ))[0])
        yield found
        after = dict((await connection.fetch(READ))[0])
    found.update({name: after[name] - before[name] for name in after})


async def forget_statistics(stack: Stack) -> None:
    """Let the statistics say from now on that there is nothing."""
    await stack.log.begin()
    for table in ("events", "streams"):
        await stack.admin.execute(f"ALTER TABLE userlog.{table} SET (autovacuum_enabled = off)")
        await stack.admin.execute(f"ANALYZE userlog.{table}")


async def append(stack: Stack, connection: Connection, names: list[str]) -> Counter[str]:
    """Append a batch; return what that took."""
    events = [event(f"u{hash(name) % 7}", name) for name in names]
    streams = [stack.log.stream(one.application_id, one.user_id) for one in events]
    keys = await stack.log.keyring.find_or_make(streams)
    batch = [seal(*one, Ciphers()) for one in zip(events, streams, keys, strict=True)]
    async with counting(connection) as found:
        await append_batch(connection, stack.log.master_key, 0, batch)
    return found


async def test_statistics_do_not_matter(stack: Stack) -> None:
    """An append looks up each item by index, on a log that grew since anybody counted it.

    The plan was made, and kept, when the log was empty; the statistics still say that it is.
    """
    await forget_statistics(stack)
    async with stack.pool.acquire() as connection:
        for n in range(10):  # so often that PostgreSQL keeps its plan
            assert not (await append(stack, connection, [f"before {n}"]))["scans"]
        await stack.admin.execute(FILL)
        for size in (1, 32, 512, 5_000):
            found = await append(stack, connection, [f"{size} {n}" for n in range(size)])
            assert not found["scans"]
            assert found["rows"] <= size + 7, "more than each item's user was read"


async def test_reading_on_without_statistics(stack: Stack) -> None:
    """Whoever follows the log reads what comes next, and not all users to find whose it is.

    The same holds for the events of a few users. Both plans were kept when the log was empty.
    """
    await forget_statistics(stack)
    async with stack.pool.acquire() as connection:
        for _ in range(10):
            assert not await read.rows_after(connection, Position(0, 0), 100)
            assert not await read.rows_of_streams(connection, [uuid.uuid4()], Position(0, 1))
        await stack.admin.execute(FILL)
        async with counting(connection) as following:
            rows = await read.rows_after(connection, Position(0, EVENTS // 2), 100)
        async with counting(connection) as looking:
            ours = await read.rows_of_streams(
                connection, [row["stream_id"] for row in rows[:5]], Position(0, EVENTS)
            )
    assert len(rows) == 100
    assert following == {"scans": 0, "rows": 200}, "an event's user was looked up more than once"
    assert len(ours) == 5 * EVENTS // USERS
    assert looking == {"scans": 0, "rows": len(ours) + 5}


STREAMS = f"""
INSERT INTO userlog.streams (partition, stream_id, application_id, user_id, key_id, data_key)
SELECT 0, md5(n::text)::uuid, 'app', n::text, n, '' FROM generate_series(1, 20 * {USERS}) n
"""
READ_MODELS = f"""
WITH u AS (
    SELECT md5(n::text)::uuid AS stream_id, n FROM generate_series(1, 20 * {USERS}) n
), users AS (
    INSERT INTO userlog.users (partition, generation, stream_id, application_id, user_id,
        lifecycle, sealed, tie_break, position, kind, occurred_at, recorded_at)
    SELECT 0, 1, stream_id, 'app', n::text, 1, '', '', 1, 2, 'epoch', 'epoch' FROM u
), history AS (
    INSERT INTO userlog.history (partition, generation, stream_id, tie_break, position, kind,
        occurred_at, recorded_at, late, lifecycle_before, lifecycle_after, sealed)
    SELECT 0, 1, stream_id, '', 1, 2, 'epoch', 'epoch', false, 0, 1, '' FROM u
)
INSERT INTO userlog.terms (partition, generation, stream_id, terms, former, until)
SELECT 0, 1, stream_id, ARRAY[stream_id], '{{}}', '{{}}' FROM u
"""
SOME = "0, 1, ARRAY[md5('7')::uuid, md5('8')::uuid]"
ONE = "0, 1, md5('7')::uuid"
LOOK_UPS = {
    "users_get": SOME,
    "parked_of": SOME,
    **{f"{table}_drop": ONE for table in ("users", "history", "terms")},
    "unpark": ONE,
    "user": "0, md5('7')::uuid",
    "events_back": f"0, md5('7')::uuid, 'epoch', {LAST}, 'infinity', {LAST}, 4",
    "history_asc": "0, md5('7')::uuid, NULL, NULL, NULL, 'infinity', 10, 1000",
    "history_desc": "0, md5('7')::uuid, NULL, NULL, NULL, 'infinity', 10, 1000",
    "users_listed": """ARRAY[0], 'app', ARRAY[1], '-infinity', 'infinity', 5, 5, 10, 1000""",
    "numbers": "ARRAY[0], 'other', '2023-01-01', '2023-12-31'",
}


@pytest.fixture(scope="module")
async def looked_up(looked_at: Stack) -> AsyncGenerator[Connection]:
    """Yield a connection whose plans were kept when there was nobody; now there are many.

    So it is with a service that begins with an empty database.
    """
    async with crowded(looked_at) as connection:
        for name, arguments in LOOK_UPS.items():
            await connection.execute(f"PREPARE kept_{name} AS {statement(name)}")
            for _ in range(10):
                await connection.execute(f"EXECUTE kept_{name} ({arguments})")
        await looked_at.admin.execute(STREAMS)
        await looked_at.admin.execute(READ_MODELS)
        yield connection
        await connection.execute("DEALLOCATE ALL")


@pytest.mark.parametrize("name", LOOK_UPS)
async def test_looking_up_without_statistics(looked_up: Connection, name: str) -> None:
    """Rows are found by the index that is made for it, however many others there are.

    By a plan that was kept when there was nobody, and by one that was made later, before anybody
    counted the rows.
    """
    kept = await explain_only(looked_up, f"EXECUTE kept_{name} ({LOOK_UPS[name]})")
    await looked_up.execute(f"PREPARE later AS {statement(name)}")
    made = await explain_only(looked_up, f"EXECUTE later ({LOOK_UPS[name]})")
    await looked_up.execute("DEALLOCATE later")
    assert blocks(kept) < 100, kept
    assert blocks(made) < 100, made


async def explain_only(connection: Connection, statement: str) -> str:
    """Explain what a statement does, and leave everything as it was."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        return await explain(connection, statement)
    finally:
        await transaction.rollback()


async def test_erasing_without_statistics(stack: Stack) -> None:
    """To erase a user takes as long as they have rows, and not as there are users."""
    streams = [stack.log.stream(APP, user) for user in ("6", "7")]
    await stack.log.append([event("6", "first"), event("7", "second")])
    async with crowded(stack) as connection:
        await stack.admin.execute(READ_MODELS)
        found = ""
        key = "(SELECT fingerprint FROM userlog.log_head)"
        for n, stream in enumerate(streams):  # the first reads the catalogue as well
            names = f"{n}, '{n:016}', '12345678', '', '', NULL, ''"
            erase = f"SELECT userlog.erase(0, {key}, NULL, $1, {names})"
            found = await explain(connection, erase.replace("$1", f"'{stream.stream_id}'"))
            assert await stack.log.is_erased(stream)
    assert blocks(found) < 200, found


@contextlib.asynccontextmanager
async def crowded(stack: Stack) -> AsyncGenerator[Connection]:
    """Yield a connection of the service to read models whose rows nobody will count."""
    for table in ("users", "history", "terms"):
        await stack.admin.execute(f"ALTER TABLE userlog.{table}_g1 SET (autovacuum_enabled = off)")
    async with stack.pool.acquire() as connection:
        yield connection


async def explain(connection: Connection, statement: str) -> str:
    """Execute a statement; return its plan, and what it looked at."""
    found: str = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    return found


def blocks(explained: str) -> int:
    """Return how many blocks a statement has looked at."""
    (plan,) = msgspec.json.decode(explained)
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


async def test_a_moment_before_statistics(stack: Stack) -> None:
    """A question about a moment reads a few pages, even with a plan made before the first ANALYZE.

    Autovacuum's first visit makes an index look cheap and says only then how much there is. What it
    says then changes no plan that was made in between.
    """
    await stack.admin.execute("ALTER TABLE userlog.events SET (autovacuum_enabled = off)")
    await stack.admin.execute(FILL)
    await stack.admin.execute(PROJECTED)
    await stack.admin.execute("VACUUM userlog.events")
    async with stack.pool.acquire() as connection:
        types = "integer, uuid, timestamptz, bigint, timestamptz, bigint, bigint"
        await connection.execute(f"PREPARE asked ({types}) AS {statement('events_back')}")
        explained = await explain(
            connection,
            f"EXECUTE asked (0, md5('7')::uuid, 'epoch', {LAST}, 'infinity', {LAST}, 4)",
        )
        await connection.execute("DEALLOCATE asked")
    (plan,) = msgspec.json.decode(explained)
    assert plan["Plan"]["Actual Rows"] == 4
    assert blocks(explained) < 200, explained


async def test_plans_are_kept(stack: Stack) -> None:
    """A question is planned once a session: planning it takes longer than answering it."""
    await stack.admin.execute(FILL)
    await stack.admin.execute("ANALYZE")
    back = statement("events_back")
    async with stack.pool.acquire() as connection:
        for n in range(1, 21):
            user = uuid.UUID(hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest())
            rows = await connection.fetch(back, 0, user, NOW, LAST, NOW, LAST, 2)
            assert len(rows) == 2
        planned = await connection.fetchval(
            "SELECT custom_plans FROM pg_prepared_statements WHERE statement = $1", back
        )
    assert planned == 0
