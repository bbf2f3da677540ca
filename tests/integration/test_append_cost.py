"""What an append reads, counted by PostgreSQL in rows, not in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore import store
from tests.integration.support import event

if TYPE_CHECKING:
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


async def append(stack: Stack, connection: Connection, names: list[str]) -> tuple[int, int]:
    """Append a batch; return how often a table was scanned, and how many rows were fetched."""
    events = [event(f"u{hash(name) % 7}", name) for name in names]
    keys = await stack.log.keyring.find_or_make(
        [stack.log.stream(one.application_id, one.user_id) for one in events]
    )
    batch = [store.seal(one, key) for one, key in zip(events, keys, strict=True)]
    async with connection.transaction():  # only within one are the counts this backend's alone
        before = await connection.fetch(READ)
        await store.append_batch(connection, 0, batch)
        after = await connection.fetch(READ)
    return after[0]["scans"] - before[0]["scans"], after[0]["rows"] - before[0]["rows"]


@pytest.mark.parametrize("size", [1, 32, 512, 5_000])
async def test_statistics_do_not_matter(stack: Stack, size: int) -> None:
    """An append looks up each item by index, on a log that grew since anybody counted it.

    The plan was made, and kept, when the log was empty; the statistics still say that it is.
    """
    for table in ("events", "streams"):
        await stack.admin.execute(f"ALTER TABLE userlog.{table} SET (autovacuum_enabled = off)")
        await stack.admin.execute(f"ANALYZE userlog.{table}")
    async with stack.pool.acquire() as connection:
        for n in range(10):  # so often that PostgreSQL keeps its plan
            assert (await append(stack, connection, [f"before {n}"]))[0] == 0
        await stack.admin.execute(FILL)
        scans, rows = await append(stack, connection, [f"after {n}" for n in range(size)])
    assert scans == 0
    assert rows <= size + 7, "more than each item's user was read"
