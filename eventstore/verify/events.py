"""The events: dense, unaltered, in order, and each opens with its user's key.

A range of a partition is proved by itself: from the hash that stands on the last event of a batch
to the end of another batch, or to the head.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from eventstore.errors import SealBrokenError
from eventstore.events import Kind, Position
from eventstore.postgres import statements
from eventstore.sealing.keys import NO_PAYLOAD
from eventstore.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import asyncpg

    from eventstore.postgres.sessions import Connection
    from eventstore.read import Head
    from eventstore.sealing.keyring import Keyring

_SQL = statements.load("eventstore.verify")
PAGE_ROWS = 2_000
NO_CHAIN = bytes(32)
_LEAF_BYTES = 8
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# When the head of a partition without events says that it was recorded.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def verify_events(
    connection: Connection,
    keyring: Keyring,
    between: tuple[Position, int],
    head: Head | None,
    counted: Callable[[int], None],
) -> Finding | None:
    """Verify the events after a position and up to a number; to the `head`, if it is given.

    `counted` is called with how many, after each page.
    """
    after, until = between
    before = await connection.fetchrow(_SQL["batch_end"], *after) if after.number else None
    if after.number and (before is None or before["chain"] is None):
        return Finding(after, "is missing, or not the last event of a batch, as it was")
    walk = _Walk(after.partition, keyring, before)
    while walk.position < until:
        begun = walk.position
        bounds = (after.partition, begun, until, PAGE_ROWS)
        rows = await connection.fetch(_SQL["verify_page"], *bounds)
        for row in rows:
            for problem in walk.step(row):
                return Finding(Position(after.partition, walk.position), problem)
        if not rows:
            missing = Position(after.partition, begun + 1)
            return Finding(missing, f"is missing; the log goes up to {until}")
        counted(walk.position - begun)
    return walk.end(head) if head else None


async def verify_no_copies(connection: Connection, partition: int) -> Finding | None:
    """Look whether an event is there twice: a copy opens as well, and can be dated otherwise.

    An index lets none be, unless somebody has taken it away.
    """
    if await connection.fetchval(_SQL["is_unique"]):
        return None
    number: int | None = await connection.fetchval(_SQL["copied_event"], partition)
    if number is None:
        return None
    return Finding(Position(partition, number), "is a copy of an event before it")


class _Walk:
    """Goes through a partition event by event."""

    def __init__(self, partition: int, keyring: Keyring, before: asyncpg.Record | None) -> None:
        """Begin behind an event that a batch ended with; None: at the beginning."""
        self._partition = partition
        self._keyring = keyring
        self._recorded: bytes = before["recorded"] if before else sent(_NEVER)
        self._chain: bytes = before["chain"] if before else NO_CHAIN
        self._leaves: list[bytes] = []
        self.position: int = before["position"] if before else 0

    def step(self, row: asyncpg.Record) -> Iterator[str]:
        """Take the next event; yield what is wrong with it. The position moves to it first."""
        self.position += 1
        if row["position"] != self.position:
            yield "is missing"
            return
        leaf = _leaf(self._partition, row)
        if leaf[:_LEAF_BYTES] != row["leaf"]:
            yield "was altered after it had been appended"
        if int.from_bytes(row["recorded"], signed=True) < int.from_bytes(
            self._recorded, signed=True
        ):
            yield "was recorded before the event in front of it"
        yield from self._opens(row)
        self._recorded = row["recorded"]
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
        if row["kind"] == Kind.ERASED and row["erased_position"] != row["position"]:
            yield "is an erasure, and its user does not know of it: it was undone"
        try:
            key = self._keyring.of_row(row)
            if key is not None and row["payload"] != NO_PAYLOAD:
                self._keyring.open(row)
            elif key is not None and row["kind"] == Kind.ERASED:
                yield "is an erasure, and its user has a key: it was undone"
            elif key is not None:
                yield "has no payload although its user was not erased"
        except SealBrokenError as error:
            yield f"has a payload or key that {error}"

    def end(self, head: Head) -> Finding | None:
        """Compare what was gone through with the head, which it has reached."""
        if self._leaves or self._chain != head.chain:
            return Finding(
                head.position, "is the head, but the chain of hashes does not lead to it"
            )
        if self._recorded != sent(head.recorded_at):
            return Finding(head.position, "was not recorded when the head says")
        return None


def _leaf(partition: int, row: asyncpg.Record) -> bytes:
    """Hash an event as append() does."""
    placed = struct.pack(">iq", partition, row["position"]) + row["stream_id"].bytes
    times: bytes = struct.pack(">h", row["kind"]) + row["occurred"] + row["recorded"]
    sealed: bytes = row["identity"] + row["digest"] + row["payload"]
    return hashlib.sha256(placed + times + sealed).digest()


def sent(time: datetime) -> bytes:
    """Return a time as timestamptz_send() does; of an infinity, which has no time zone, nothing."""
    return struct.pack(">q", (time - _POSTGRES_EPOCH) // _MICROSECOND) if time.tzinfo else b""
