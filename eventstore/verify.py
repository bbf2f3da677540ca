"""Proof that the log is whole: re-reads it and recomputes everything that was computed.

What it proves, per partition: positions are dense from 1 to the head; `recorded_at` never goes
back; every event is the one whose hash was taken when it was appended; the chain of these hashes
leads to the head's; every payload opens with its user's key, or belongs to an erased user. Of the
audit beside it: its rows are dense, unaltered and in their places, and every erasure since it
began has one. What it can't see alone is a log that was cut off, or written again as a whole, with
the rights to write it all: for that, note a head's position and hash elsewhere and give them back.
"""

from __future__ import annotations

import hashlib
import struct
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from eventstore.audit import open_act
from eventstore.errors import SealBrokenError, UnavailableError, database_errors
from eventstore.events import Kind, Position
from eventstore.postgres import statements
from eventstore.sealing.keys import NO_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    import asyncpg

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.read import Head
    from eventstore.sealing.keyring import Keyring
    from eventstore.sealing.keys import DataKey

_SQL = statements.load("eventstore")
_PAGE_ROWS = 2_000
_LEAF_BYTES = 8
_NO_CHAIN = bytes(32)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Finding(msgspec.Struct, frozen=True):
    """The first place of a partition where the log is not what it was, and what is wrong there.

    `what` stands there: an event, or a row of the audit at this number.
    """

    position: Position
    problem: str
    what: Literal["event", "audit row"] = "event"

    def __str__(self) -> str:
        """Name all, for an operator."""
        return f"{self.what} {self.position} {self.problem}"


class Note(msgspec.Struct, frozen=True):
    """A head's position and hash as noted elsewhere; written `0:42:<hex>`."""

    position: Position
    chain: bytes

    @classmethod
    def parse(cls, text: str) -> Note:
        """Read a note; ValueError for anything else."""
        position, _, chain = text.rpartition(":")
        return cls(Position.parse(position), bytes.fromhex(chain))


async def verify(
    log: EventLog, *, notes: list[Note], progress: Callable[[int, int], None]
) -> list[Finding]:
    """Verify all partitions; return the first finding of each that has one.

    `progress` is called with (events verified, events in all) after each page. Events appended
    meanwhile are left for the next time. The outcome is recorded for each partition. A note of a
    partition that the log has not is a finding too.
    """
    findings: list[Finding] = []
    heads = await log.heads()
    total = sum(head.position.number for head in heads)
    before = 0
    async with log.connection() as connection:
        for head in heads:
            walk = _Walk(head.position.partition, log.keyring)
            counted = partial(_count, progress, before, total)
            finding = await _verify_partition(connection, walk, head, counted)
            finding = finding or await _compare(connection, head, notes)
            finding = finding or await _verify_audit(connection, log, head.position.partition)
            if finding:
                findings.append(finding)
            await _record(connection, head, passed=finding is None)
            before += head.position.number
    known = {head.position.partition for head in heads}
    strange = (note.position for note in notes if note.position.partition not in known)
    findings += (Finding(at, "was noted, but the log has no such partition") for at in strange)
    return findings


def _count(progress: Callable[[int, int], None], before: int, total: int, number: int) -> None:
    progress(before + number, total)


async def _record(connection: Connection, head: Head, *, passed: bool) -> None:
    """Record the outcome for monitoring; a database without writes is verified too."""
    partition, number = head.position
    with suppress(UnavailableError), database_errors():
        await connection.execute(_SQL["verified"], partition, number, passed)


async def _verify_partition(
    connection: Connection, walk: _Walk, head: Head, counted: Callable[[int], None]
) -> Finding | None:
    partition = head.position.partition
    while walk.position < head.position.number:
        rows = await connection.fetch(_SQL["verify_page"], partition, walk.position, _PAGE_ROWS)
        for row in rows:
            if row["position"] > head.position.number:
                break
            for problem in walk.step(row):
                return Finding(Position(partition, walk.position), problem)
        if not rows:
            missing = Position(partition, walk.position + 1)
            return Finding(missing, f"is missing; the head says {head.position}")
        counted(walk.position)
    return walk.end(head) or await _beyond_head(connection, partition)


async def _beyond_head(connection: Connection, partition: int) -> Finding | None:
    number: int | None = await connection.fetchval(_SQL["beyond_head"], partition)
    if number is None:
        return None
    return Finding(Position(partition, number), "lies beyond the head: it was never appended")


class _Walk:
    """Goes through a partition event by event."""

    def __init__(self, partition: int, keyring: Keyring) -> None:
        self._partition = partition
        self._keyring = keyring
        self._recorded_at: datetime | None = None
        self._chain = _NO_CHAIN
        self._leaves: list[bytes] = []
        self.position = 0

    def step(self, row: asyncpg.Record) -> Iterator[str]:
        """Take the next event; yield what is wrong with it. The position moves to it first."""
        self.position += 1
        if row["position"] != self.position:
            yield "is missing"
            return
        leaf = _leaf(self._partition, row)
        if leaf[:_LEAF_BYTES] != row["leaf"]:
            yield "was altered after it had been appended"
        if self._recorded_at is not None and row["recorded_at"] < self._recorded_at:
            yield "was recorded before the event in front of it"
        yield from self._opens(row)
        self._recorded_at = row["recorded_at"]
        self._leaves.append(leaf)
        if row["chain"] is not None:
            yield from self._close_batch(row["chain"])

    def _close_batch(self, stored: bytes) -> Iterator[str]:
        chain = hashlib.sha256(self._chain + b"".join(self._leaves)).digest()
        if chain != stored:
            first = self.position - len(self._leaves) + 1
            self.position = first
            yield f"or one of the {len(self._leaves)} events from it on is not what was appended"
        self._chain = chain
        self._leaves.clear()

    def _opens(self, row: asyncpg.Record) -> Iterator[str]:
        if not row["has_stream"]:
            yield "belongs to a user whose key and name are gone without being erased"
            return
        try:
            key = self._keyring.of_row(row)
            if key is not None and row["payload"] != NO_PAYLOAD:
                self._keyring.open(row)
            elif key is not None and row["kind"] != Kind.ERASED:
                yield "has no payload although its user was not erased"
        except SealBrokenError as error:
            yield f"has a payload or key that {error}"

    def end(self, head: Head) -> Finding | None:
        if self._leaves or self._chain != head.chain:
            return Finding(
                head.position, "is the head, but the chain of hashes does not lead to it"
            )
        if self._recorded_at is not None and self._recorded_at != head.recorded_at:
            return Finding(head.position, "was not recorded when the head says")
        return None


def _leaf(partition: int, row: asyncpg.Record) -> bytes:
    """Hash an event as append() does."""
    placed = struct.pack(">iq", partition, row["position"]) + row["stream_id"].bytes
    times = struct.pack(
        ">hqq", row["kind"], _microseconds(row["occurred_at"]), _microseconds(row["recorded_at"])
    )
    sealed: bytes = row["identity"] + row["digest"] + row["payload"]
    return hashlib.sha256(placed + times + sealed).digest()


def _microseconds(time: datetime) -> int:
    return (time - _POSTGRES_EPOCH) // _MICROSECOND


async def _compare(connection: Connection, head: Head, notes: list[Note]) -> Finding | None:
    """Hold a verified partition against what was noted of it elsewhere."""
    for note in notes:
        partition, number = note.position
        if partition != head.position.partition:
            continue
        if number > head.position.number:
            return Finding(note.position, f"is missing: the log ends at {head.position}")
        chain = await connection.fetchval(_SQL["chain_at"], partition, number)
        if (chain or _NO_CHAIN) != note.chain:
            return Finding(note.position, "has another hash than was noted: history was rewritten")
    return None


async def _verify_audit(connection: Connection, log: EventLog, partition: int) -> Finding | None:
    """Verify a partition of the audit, and that no erasure is without a row in it."""
    async with aclosing(_audit_problems(connection, log, partition)) as problems:
        async for number, problem in problems:
            return Finding(Position(partition, number), problem, "audit row")
    row = await connection.fetchrow(_SQL["unaudited_erasure"], partition)
    if row is not None and row["position"] is not None:
        at = Position(partition, row["position"])
        return Finding(at, "is an erasure without a row in the audit")
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
    number, chain = 0, _NO_CHAIN
    while number < head["number"]:
        until = min(number + _PAGE_ROWS, head["number"])
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
        open_act(key, row)
    except (SealBrokenError, msgspec.DecodeError):
        return False
    return True


def _audit_chain(before: bytes, row: asyncpg.Record) -> bytes:
    """Hash a row of the audit as audit() does."""
    placed = struct.pack(">iqq", row["partition"], row["number"], _microseconds(row["recorded_at"]))
    stream_id = row["stream_id"].bytes if row["stream_id"] else bytes(16)
    position = struct.pack(">q", row["position"] or 0)
    return hashlib.sha256(before + placed + stream_id + position + row["sealed"]).digest()
