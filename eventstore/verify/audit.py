"""The audit: its rows are dense, unaltered and in their places, and no erasure is without one."""

from __future__ import annotations

import hashlib
import struct
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from eventstore.audit import open_act
from eventstore.errors import SealBrokenError
from eventstore.events import Position
from eventstore.postgres import statements
from eventstore.verify.events import NO_CHAIN, PAGE_ROWS
from eventstore.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import asyncpg

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import DataKey

_SQL = statements.load("eventstore.verify")


async def verify_audit(connection: Connection, log: EventLog, partition: int) -> Finding | None:
    """Verify a partition of the audit, and that no erasure is without a row in it."""
    async with aclosing(_audit_problems(connection, log, partition)) as problems:
        async for number, problem in problems:
            return Finding(Position(partition, number), problem, "audit row")
    copied = await connection.fetchval(_SQL["copied_audit"], partition)
    if copied is not None:
        return Finding(Position(partition, copied), "is a copy of another row", "audit row")
    row = await connection.fetchrow(_SQL["audit_since"], partition)
    if row is not None and row["latest"] is not None and row["since"] > row["latest"]:
        at = Position(partition, row["since"])
        return Finding(at, "is where the audit is said to begin, and it began before", "head")
    row = await connection.fetchrow(_SQL["unaudited_erasure"], partition)
    if row is not None and row["position"] is not None:
        at = Position(partition, row["position"])
        return Finding(at, "is an erasure without a row in the audit")
    row = await connection.fetchrow(_SQL["undone_erasure"], partition)
    if row is not None and row["position"] is not None:
        at = Position(partition, row["position"])
        return Finding(at, "is an erasure that was undone: its user does not know of it")
    return None


async def _audit_problems(
    connection: Connection, log: EventLog, partition: int
) -> AsyncGenerator[tuple[int, str]]:
    """Go through the rows; yield the number of each that is not right, and what is wrong."""
    head = await connection.fetchrow(_SQL["audit_head"], partition)
    if head is None:
        yield 1, "is missing with all after it: the partition's head of the audit is gone"
        return
    try:
        key = await log.audit.key()
    except SealBrokenError as error:
        yield 1, f"can't be read: {error}"
        return
    number, chain = 0, NO_CHAIN
    while number < head["number"]:
        until = min(number + PAGE_ROWS, head["number"])
        page = await connection.fetch(_SQL["audit_page"], partition, number, until)
        rows = {row["number"]: row for row in page}
        while number < until:
            number += 1
            row = rows.get(number)
            if row is None:
                yield number, "is missing"
                return
            if _audit_chain(chain, row) != row["chain"]:
                yield number, "was altered or moved after it had been written"
            if not _opens(key, row):
                yield number, "is not what userlog wrote: it does not open"
            chain = row["chain"]
    beyond = await connection.fetchval(_SQL["beyond_audit_head"], partition)
    if beyond is not None:
        yield beyond, "lies beyond the audit's head"
    if chain != head["chain"]:
        yield number, "is the last, but the chain of hashes does not lead to it"


def _opens(key: DataKey | None, row: asyncpg.Record) -> bool:
    if key is None:
        return False
    try:
        act = open_act(key, row)
    except (SealBrokenError, msgspec.DecodeError):
        return False
    return (act.action == "erase") == (row["position"] is not None)


def _audit_chain(before: bytes, row: asyncpg.Record) -> bytes:
    """Hash a row of the audit as audit() does."""
    placed = struct.pack(">iq", row["partition"], row["number"]) + row["recorded"]
    stream_id = row["stream_id"].bytes if row["stream_id"] else bytes(16)
    position = struct.pack(">q", row["position"] or 0)
    return hashlib.sha256(before + placed + stream_id + position + row["sealed"]).digest()
