"""Databases of tests: connections that are not the code's, locks, and what stands in tables."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from eventstore.postgres import statements
from projections import numbers
from projections.read_models import TABLES
from tests.support.waiting import until

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator

    from tests.conftest import Stack

    Source = asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """Open a connection that is not the code's."""
    path = {"search_path": "userlog, pg_catalog"}  # as in sessions of the code
    connection = await asyncpg.connect(url, server_settings=path)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def holding(url: str, statement: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """Hold what a statement locks for as long as the block lasts."""
    async with connected(url) as connection, connection.transaction():
        await connection.execute(statement)
        yield connection


HEADS = "SELECT 1 FROM userlog.log_head FOR UPDATE"
_BLOCKED = """
SELECT pid FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database() ORDER BY pid
"""


async def blocked(source: Source, count: int = 1) -> list[int]:
    """Wait until so many backends wait for a lock, and return their pids."""

    async def waiting() -> list[int]:
        # In a transaction of its own statistics would be those of its beginning.
        await source.execute("SELECT pg_stat_clear_snapshot()")
        found = await source.fetch(_BLOCKED)
        return [row["pid"] for row in found] if len(found) >= count else []

    return await until(waiting)


async def kill(source: Source, pids: list[int]) -> None:
    """End backends as an administrator or a crash does."""
    await source.execute("SELECT pg_terminate_backend(unnest($1::integer[]))", pids)


async def positions(source: Source, partition: int = 0) -> list[int]:
    """Return all positions that can be seen, in order."""
    found = await source.fetch(
        "SELECT position FROM userlog.events WHERE partition = $1 ORDER BY position", partition
    )
    return [row["position"] for row in found]


async def assert_log_holds(stack: Stack) -> int:
    """Check numbers, times and hash chain of every partition from its rows; count the events."""
    total = 0
    for head in await stack.log.heads():
        rows = await stack.pool.fetch(
            "SELECT * FROM userlog.events WHERE partition = $1 ORDER BY position",
            head.position.partition,
        )
        assert [row["position"] for row in rows] == list(range(1, head.position.number + 1))
        times = [row["recorded_at"] for row in rows]
        assert times == sorted(times)
        assert all(time.microsecond % 1000 == 0 for time in times)
        if rows:
            assert head.recorded_at == times[-1]
        assert head.chain == _chain(rows)
        total += len(rows)
    return total


def _chain(rows: list[asyncpg.Record]) -> bytes:
    chain, leaves = bytes(32), b""
    for row in rows:
        leaves += hashlib.sha256(_leaf(row)).digest()
        if row["chain"] is not None:
            chain, leaves = hashlib.sha256(chain + leaves).digest(), b""
            assert row["chain"] == chain
    assert not leaves, "the last event of a batch carries no chain"
    return chain


def _leaf(row: asyncpg.Record) -> bytes:
    stream_id: uuid.UUID = row["stream_id"]
    numbers = struct.pack(">iq", row["partition"], row["position"])
    about = struct.pack(
        ">hqq",
        row["kind"],
        (row["occurred_at"] - _POSTGRES_EPOCH) // _MICROSECOND,
        (row["recorded_at"] - _POSTGRES_EPOCH) // _MICROSECOND,
    )
    keyed: bytes = row["identity"] + row["digest"] + row["payload"]
    return numbers + stream_id.bytes + about + keyed


async def erase(stack: Stack, user_id: str) -> None:
    """Do to a user's key what an erasure does."""
    await stack.admin.execute(
        "UPDATE userlog.streams SET data_key = NULL, erased_at = now(), key_id = key_id + 1"
        " WHERE user_id = $1",
        user_id,
    )


async def alter(stack: Stack, number: int, partition: int = 0) -> None:
    """Alter an event's sealed payload, as only a fault of the disk or an attacker does."""
    await stack.admin.execute(
        "UPDATE userlog.events SET payload = payload || '\\x00'"
        f" WHERE partition = {partition} AND position = {number}"
    )


async def restore(stack: Stack, number: int, partition: int = 0) -> None:
    """Take back what `alter` did."""
    await stack.admin.execute(
        "UPDATE userlog.events SET payload = substr(payload, 1, octet_length(payload) - 1)"
        f" WHERE partition = {partition} AND position = {number}"
    )


async def begin_again(stack: Stack) -> None:
    """Forget everything that was projected."""
    for table in (*(table.name for table in TABLES), "parked", "numbers"):
        await stack.admin.execute(f"DELETE FROM userlog.{table}")
    await stack.admin.execute("UPDATE userlog.checkpoints SET position = 0")


async def parked_events(stack: Stack) -> list[tuple[str, str]]:
    """Return the events because of which users are parked, and why, in order."""
    rows = await stack.pool.fetch(
        "SELECT p.* FROM userlog.parked p JOIN userlog.active_generation a"
        " ON a.generation = p.generation ORDER BY partition, position"
    )
    return [(f"{row['partition']}:{row['position']}", row["reason"]) for row in rows]


async def tables(source: Source) -> list[list[tuple[Any, ...]]]:
    """Return what the active generation says, row by row, without its number."""
    found: list[list[tuple[Any, ...]]] = []
    for table in TABLES:
        order = ", ".join(("partition", "stream_id", *table.key))
        rows = await source.fetch(
            f"SELECT partition, {', '.join(table.columns)} FROM userlog.{table.name}"
            f" WHERE generation = (SELECT generation FROM active_generation) ORDER BY {order}"
        )
        found.append([tuple(row) for row in rows])
    return found


# The packages that have named statements.
PACKAGES = (
    *("eventstore", "eventstore.postgres", "eventstore.sealing", "eventstore.verify"),
    *("api.web", "api.observe"),
    "api.doctor",
    *("projections.project", "projections.query", "projections.prove", "projections.rebuild"),
)


def all_statements() -> dict[str, str]:
    """Return every statement by its name; those of a read model are `<table>_put` and so on."""
    found = {
        f"{table.name}_{what}": getattr(table, what)
        for table in TABLES
        for what in ("put", "drop", "select", "sums")
    }
    counting = {name: text.format(history="history") for name, text in numbers.SQL.items()}
    for named in (counting, *map(statements.load, PACKAGES)):
        assert not found.keys() & named.keys(), "a name is in one package only"
        found |= named
    return found


def statement(name: str) -> str:
    """Return a named statement."""
    return all_statements()[name]
