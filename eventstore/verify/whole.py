"""Proof that the log is whole: re-reads it and recomputes everything that was computed.

What it proves, per partition: positions are dense from 1 to the head; `recorded_at` never goes
back; every event is the one whose hash was taken when it was appended; the chain of these hashes
leads to the head's; every payload opens with its user's key, or belongs to an erased user; every
user's names are those that their id was made of, and they have a key unless the log has erased
them; the audit is dense, unaltered and in its place, and every erasure since it began has a row; no
checkpoint lies beyond the head; every signed head that is kept holds.

What it can't see alone is a log that was cut off, or written again as a whole, together with its
signed heads: for that, keep a signed head elsewhere and give it back.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from eventstore.errors import UnavailableError, database_errors
from eventstore.events import Position
from eventstore.postgres import statements
from eventstore.read import Head
from eventstore.verify.audit import verify_audit
from eventstore.verify.events import verify_events, verify_no_copies
from eventstore.verify.finding import Finding, Note
from eventstore.verify.heads import verify_beyond, verify_note, verify_signed, verify_stored
from eventstore.verify.users import verify_users

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.signed_heads import SignedHead

_SQL = statements.load("eventstore.verify")
_IDS = 1 << 128
# A batch has no more events than this, so its last one is found within so many.
_BATCH_MAX = 10_000


class Events(msgspec.Struct, frozen=True, tag=True):
    """The events of a partition after a position that a batch ended with, up to a number.

    The last part of a partition ends with its `head`.
    """

    after: Position
    until: int
    head: Head | None


class Users(msgspec.Struct, frozen=True, tag=True):
    """The users of a partition whose streams' ids lie between two, both included."""

    partition: int
    first: uuid.UUID
    last: uuid.UUID


Part: TypeAlias = Events | Users


class Against(NamedTuple):
    """What the log is held against: notes of its heads, and signed heads.

    `since` are signed heads, by partition, whose events are trusted up to them and not read.
    """

    notes: Sequence[Note] = ()
    signed: Sequence[SignedHead] = ()
    since: Mapping[int, SignedHead] = MappingProxyType({})


NOTHING = Against()


async def verify(  # noqa: PLR0913 - what it is held against, and how it is done
    log: EventLog,
    *,
    notes: Sequence[Note] = (),
    progress: Callable[[int, int], None],
    against: Against = NOTHING,
    pieces: int = 1,
    run: Callable[[Sequence[Part], Callable[[int], None]], Awaitable[list[Finding]]] | None = None,
) -> list[Finding]:
    """Verify all partitions; return the first finding of each that has one.

    `progress` is called with (events and users verified, about how many there are) after each page.
    Events appended meanwhile are left for the next time. The outcome is recorded for each
    partition. Each partition is cut into so many `pieces`, which `run` may verify elsewhere.
    """
    against = against._replace(notes=[*notes, *against.notes])
    heads = {head.position.partition: head for head in await log.heads()}
    done, total = 0, await _total(log, heads, against)

    def counted(more: int) -> None:
        nonlocal done
        done += more
        progress(done, max(done, total))

    async with log.connection() as connection:
        parts = await _plan(connection, log, heads, against, pieces)
    found = await (run(parts, counted) if run else _run_here(log, parts, counted))
    findings: list[Finding] = []
    async with log.connection() as connection:
        for partition in range(log.partitions):
            head = heads.get(partition)
            of_it = [one for one in found if one.position.partition == partition]
            first = min(of_it, key=lambda one: one.position, default=None)
            first = first or await _rest(connection, log, head, partition, against)
            if first:
                findings.append(first)
            if head:
                await _record(connection, head, passed=first is None)
        findings += [one async for one in _strange(connection, log, heads, against)]
    return findings


async def verify_part(log: EventLog, part: Part, counted: Callable[[int], None]) -> Finding | None:
    """Verify a part of a partition; MasterKeyMovedError if its master key is not held any more."""
    async with log.connection() as connection:
        match part:
            case Events(after, until, head):
                between = (after, until)
                found = await verify_events(connection, log.keyring, between, head, counted)
                if found:  # under a master key that is not held, nothing opens
                    await log.check_master_key(connection)
                return found
            case Users(partition, first, last):
                between_ids = (first, last)
                return await verify_users(
                    connection, partition, between_ids, log.partitions, counted
                )


async def _run_here(
    log: EventLog, parts: Sequence[Part], counted: Callable[[int], None]
) -> list[Finding]:
    found = [await verify_part(log, part, counted) for part in parts]
    return [one for one in found if one]


async def _total(log: EventLog, heads: dict[int, Head], against: Against) -> int:
    begun = sum(signed.position.number for signed in against.since.values())
    events = sum(head.position.number for head in heads.values())
    async with log.connection() as connection:
        users: int = await connection.fetchval(_SQL["users_about"])
    return max(0, events - begun) + max(0, users)


async def _plan(
    connection: Connection, log: EventLog, heads: dict[int, Head], against: Against, pieces: int
) -> list[Part]:
    """Cut each partition at ends of batches, and its users by their ids."""
    parts: list[Part] = []
    for partition, head in heads.items():
        if partition >= log.partitions:
            continue
        signed = against.since.get(partition)
        first = min(signed.position.number if signed else 0, head.position.number)
        edges = [first]
        for n in range(1, pieces):
            wished = first + (head.position.number - first) * n // pieces
            bounds = (partition, max(wished, edges[-1] + 1), wished + _BATCH_MAX)
            end: int | None = await connection.fetchval(_SQL["batch_end_from"], *bounds)
            edges += [end] if end and end < head.position.number else []
        edges.append(head.position.number)
        for after, until in pairwise(edges):
            at_end = head if until == head.position.number else None
            parts.append(Events(Position(partition, after), until, at_end))
        ids = [_IDS * n // pieces for n in range(pieces + 1)]
        parts += [
            Users(partition, uuid.UUID(int=begin), uuid.UUID(int=end - 1))
            for begin, end in pairwise(ids)
        ]
    return parts


async def _rest(
    connection: Connection, log: EventLog, head: Head | None, partition: int, against: Against
) -> Finding | None:
    """Verify what is about a partition as a whole."""
    if head is None:
        problem = "is missing: the log was made with this partition, and its head is gone"
        return Finding(Position(partition, 0), problem, "head")
    finding = await verify_no_copies(connection, partition)
    finding = finding or await verify_beyond(connection, partition)
    for note in against.notes:
        if note.position.partition == partition:
            finding = finding or await verify_note(connection, head, note)
    for signed in (*against.signed, *against.since.values()):
        if signed.position.partition == partition:
            finding = finding or await verify_signed(connection, log, head, signed)
    finding = finding or await verify_stored(connection, log, head)
    return finding or await verify_audit(connection, log, partition)


async def _strange(
    connection: Connection, log: EventLog, heads: dict[int, Head], against: Against
) -> AsyncGenerator[Finding]:
    """Yield what is said of partitions that the log was not made with."""
    for partition, head in heads.items():
        if partition >= log.partitions:
            problem = "is of a partition that the log was not made with"
            yield Finding(head.position, problem, "head")
    outermost = await connection.fetchrow(_SQL["outermost"])
    for partition in outermost or ():
        if partition is not None and not 0 <= partition < log.partitions and partition not in heads:
            problem = "is of a partition that the log was not made with, and something is in it"
            yield Finding(Position(partition, 0), problem, "head")
    noted = [note.position for note in against.notes]
    signed = [one.position for one in (*against.signed, *against.since.values())]
    for what, positions in (("noted", noted), ("signed", signed)):
        for at in positions:
            if at.partition >= log.partitions:
                yield Finding(at, f"was {what}, but the log has no such partition")
    for row in await connection.fetch(_SQL["signed_elsewhere"], log.partitions):
        at = Position(row["partition"], row["position"])
        yield Finding(at, "was signed, but the log has no such partition", "signed head")


async def _record(connection: Connection, head: Head, *, passed: bool) -> None:
    """Record the outcome for monitoring; a database without writes is verified too."""
    partition, number = head.position
    with suppress(UnavailableError), database_errors():
        await connection.execute(_SQL["verified"], partition, number, passed)
