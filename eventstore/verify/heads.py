"""Heads: what was noted of them, signed of them, and what may not lie beyond them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import signed_heads
from eventstore.errors import SealBrokenError
from eventstore.events import Position
from eventstore.postgres import statements
from eventstore.verify.events import NO_CHAIN, PAGE_ROWS, sent
from eventstore.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.read import Head
    from eventstore.signed_heads import PublicKey, SignedHead, SigningKey
    from eventstore.verify.finding import Note

_SQL = statements.load("eventstore.verify")
_REWRITTEN = "has another hash than was {}: history was rewritten"


async def verify_beyond(connection: Connection, partition: int) -> Finding | None:
    """Look whether an event, or a checkpoint, lies beyond the head."""
    number: int | None = await connection.fetchval(_SQL["beyond_head"], partition)
    if number is not None:
        return Finding(Position(partition, number), "lies beyond the head: it was never appended")
    number = await connection.fetchval(_SQL["checkpoint_beyond"], partition)
    if number is not None:
        problem = "of a read model lies beyond the head: events are gone, or the checkpoint moved"
        return Finding(Position(partition, number), problem, "checkpoint")
    return None


async def verify_note(connection: Connection, head: Head, note: Note) -> Finding | None:
    """Hold a partition against what was noted of it elsewhere."""
    partition, number = note.position
    if number > head.position.number:
        return Finding(note.position, f"is missing: the log ends at {head.position}")
    row = await connection.fetchrow(_SQL["batch_end"], partition, number)
    if (row["chain"] if row else NO_CHAIN) != note.chain:
        return Finding(note.position, _REWRITTEN.format("noted"))
    return None


async def verify_signed(
    connection: Connection, log: EventLog, head: Head, signed: SignedHead
) -> Finding | None:
    """Hold a partition against what was signed of it."""
    at = signed.position
    wrong = (signed.log_id, signed.partitions) != (log.log_id, log.partitions)
    if wrong:
        problem = f"is of the log {signed.log_id} with {signed.partitions} partitions, not of this"
        return Finding(at, problem, "signed head")
    if at.number > head.position.number:
        return Finding(at, f"was signed, and the log ends at {head.position}", "signed head")
    where = (at.partition, at.number, signed.audit_number)
    row = await connection.fetchrow(_SQL["chains_at"], *where)
    if (finding := _compared(signed, row)) or not row:
        return finding
    if (row["since"] or 0) > at.number:
        problem = f"was signed, and the audit is said to have begun later, at {row['since']}"
        return Finding(at, problem, "signed head")
    return None


def _compared(signed: SignedHead, row: asyncpg.Record | None) -> Finding | None:
    chain, audit_chain = (row["chain"], row["audit_chain"]) if row else (None, None)
    if (chain or NO_CHAIN) != signed.chain:
        return Finding(signed.position, _REWRITTEN.format("signed"), "signed head")
    if (audit_chain or NO_CHAIN) != signed.audit_chain:
        problem = f"does not hold for the audit: its row {signed.audit_number} is gone or another"
        return Finding(signed.position, problem, "signed head")
    return None


async def verify_stored(connection: Connection, log: EventLog, head: Head) -> Finding | None:
    """Demand that all signed heads of a partition that are kept hold."""
    try:
        key = await signed_heads.known_key(log)
    except SealBrokenError as error:
        problem = f"can't be judged, nor any other: {error}"
        return Finding(Position(head.position.partition, 0), problem, "signed head")
    async for row in _stored(connection, head.position.partition):
        try:
            signed = _judged(log, key, row)
        except signed_heads.ForgedError as error:
            at = Position(row["partition"], row["position"])
            return Finding(at, f"is forged: it {error}", "signed head")
        # Not one that was appended and signed since the head was read.
        if signed.position > head.position and row["chain"] is None:
            problem = f"was signed, and the log ends at {head.position}"
            return Finding(signed.position, problem, "signed head")
        if finding := _compared(signed, row):
            return finding
    return None


def _judged(log: EventLog, key: SigningKey | None, row: asyncpg.Record) -> SignedHead:
    """Return what a row says; ForgedError unless the log has signed just that."""
    if key is None:
        raise signed_heads.ForgedError("was signed, and the log has no key that did it")
    signed = key.public.check(row["note"])
    said = (*signed.position, signed.audit_number, sent(signed.signed_at))
    row_says = (row["partition"], row["position"], row["audit_number"], row["signed"])
    if (said, signed.log_id, signed.partitions) != (row_says, log.log_id, log.partitions):
        raise signed_heads.ForgedError("says something else than its row")
    return signed


async def _stored(connection: Connection, partition: int) -> AsyncGenerator[asyncpg.Record]:
    after = (-1, -1)
    while rows := await connection.fetch(_SQL["signed_page"], partition, *after, PAGE_ROWS):
        for row in rows:
            yield row
        after = rows[-1]["position"], rows[-1]["audit_number"]


def read_signed(text: str, key: PublicKey) -> Sequence[SignedHead]:
    """Read a file of signed heads; ForgedError if one is not signed with the key."""
    return [key.check(note) for note in signed_heads.notes_in(text)]
