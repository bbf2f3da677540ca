"""What appending and reading on costs, counted by PostgreSQL in rows, not in time."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from eventstore import store
from eventstore.events import Position
from tests.integration.support import event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventstore.database import Connection
    from tests.conftest import Stack

EVENTS = 100_000
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
    for table in ("events", "streams"):
        await stack.admin.execute(f"ALTER TABLE userlog.{table} SET (autovacuum_enabled = off)")
        await stack.admin.execute(f"ANALYZE userlog.{table}")


async def append(stack: Stack, connection: Connection, names: list[str]) -> Counter[str]:
    """Append a batch; return what that took."""
    events = [event(f"u{hash(name) % 7}", name) for name in names]
    keys = await stack.log.keyring.find_or_make(
        [stack.log.stream(one.application_id, one.user_id) for one in events]
    )
    batch = [store.seal(one, key) for one, key in zip(events, keys, strict=True)]
    async with counting(connection) as found:
        await store.append_batch(connection, 0, batch)
    return found


@pytest.mark.parametrize("size", [1, 32, 512, 5_000])
async def test_statistics_do_not_matter(stack: Stack, size: int) -> None:
    """An append looks up each item by index, on a log that grew since anybody counted it.

    The plan was made, and kept, when the log was empty; the statistics still say that it is.
    """
    await forget_statistics(stack)
    async with stack.pool.acquire() as connection:
        for n in range(10):  # so often that PostgreSQL keeps its plan
            assert not (await append(stack, connection, [f"before {n}"]))["scans"]
        await stack.admin.execute(FILL)
        found = await append(stack, connection, [f"after {n}" for n in range(size)])
    assert not found["scans"]
    assert found["rows"] <= size + 7, "more than each item's user was read"


async def test_reading_on_without_statistics(stack: Stack) -> None:
    """Whoever follows the log reads what comes next, and not all users to find whose it is.

    The same holds for the events of a few users. Both plans were kept when the log was empty.
    """
    await forget_statistics(stack)
    async with stack.pool.acquire() as connection:
        for _ in range(10):
            assert not await store.rows_after(connection, Position(0, 0), 100)
            assert not await store.rows_of_streams(connection, [uuid.uuid4()], Position(0, 1))
        await stack.admin.execute(FILL)
        async with counting(connection) as following:
            rows = await store.rows_after(connection, Position(0, EVENTS // 2), 100)
        async with counting(connection) as looking:
            ours = await store.rows_of_streams(
                connection, [row["stream_id"] for row in rows[:5]], Position(0, EVENTS)
            )
    assert len(rows) == 100
    assert following == {"scans": 0, "rows": 200}, "an event's user was looked up more than once"
    assert len(ours) == 5 * EVENTS // USERS
    assert looking == {"scans": 0, "rows": 2 * len(ours)}
