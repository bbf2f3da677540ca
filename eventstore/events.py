"""The words of the log: kinds, positions, streams, and events before and after appending."""

from __future__ import annotations

import enum
import hashlib
import re
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple, Self

import msgspec
from asyncpg.pgproto.pgproto import UUID

# How much later than it is recorded an event may be dated; append() holds to it.
CLOCK_AHEAD_MAX = timedelta(minutes=5)


class Kind(enum.IntEnum):
    """What happened to the user; the number is the rank among events of one moment."""

    CREATED = 1
    UPDATED = 2
    DELETED = 3
    ERASED = 4

    @property
    def label(self) -> str:
        """The name used outside: `user.created` and so on."""
        return f"user.{self.name.lower()}"


_PIECE = re.compile("[0-9a-f]{8}")


class Position(NamedTuple):
    """A place in the log, written `"<partition>:<number>"`; numbers are dense from 1."""

    partition: int
    number: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str()` wrote; ValueError for anything else."""
        partition, colon, number = text.partition(":")
        plain = partition.isascii() and partition.isdecimal() and len(partition) <= 4  # noqa: PLR2004 - 1,024 partitions at most
        dense = number.isascii() and number.isdecimal() and len(number) <= 18  # noqa: PLR2004 - fits 64 bits
        found = cls(int(partition), int(number)) if colon and plain and dense else None
        if found is None or str(found) != text:
            msg = "a position looks like 0:42, partition and number with a colon between"
            raise ValueError(msg)
        return found


PIECE_BYTES = 4


class Place(NamedTuple):
    """A follower's place: a position, and a piece of its event's hash if that is known.

    Written `0:42-9f86d081`, or `0:42`. By the piece another log is noticed, and one that was
    restored to before: its event at that position has another hash.
    """

    position: Position
    piece: bytes = b""

    def __str__(self) -> str:
        return f"{self.position}-{self.piece.hex()}" if self.piece else str(self.position)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str()` wrote; ValueError for anything else."""
        position, dash, piece = text.partition("-")
        if dash and not _PIECE.fullmatch(piece):
            msg = "a place looks like 0:42-9f86d081: give back what the answer before had"
            raise ValueError(msg)
        return cls(Position.parse(position), bytes.fromhex(piece))


class Stream(msgspec.Struct, frozen=True, gc=False):
    """One user's place in the log, computed from nothing but the two ids.

    `stream_id` is the first 16 bytes of SHA-256(application_id, NUL, user_id), and `partition`
    its first 8 bytes, big-endian, modulo the number of partitions. Neither may ever change.
    """

    partition: int
    stream_id: uuid.UUID
    application_id: str
    user_id: str

    @classmethod
    def of(cls, application_id: str, user_id: str, partitions: int) -> Self:
        """Find the stream of a user in a log of so many partitions."""
        digest = hashlib.sha256(f"{application_id}\0{user_id}".encode()).digest()
        partition = int.from_bytes(digest[:8]) % partitions
        return cls(partition, UUID(digest[:16]), application_id, user_id)


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to append.

    `identity` names the event within its stream: two events with equal identities are one and
    the same; `dated` means that it has `occurred_at` in it. `content` is a hash of what makes them
    differ when they should not. `payload` is the delivery as received, restricted to this user;
    None if it is of a user who was erased. `occurred_at` is in UTC, to the millisecond. Only an
    import brings a `recorded_at`, from the log it comes from; it counts unless the partition has a
    later one.
    """

    application_id: str
    user_id: str
    kind: Kind
    occurred_at: datetime
    identity: bytes
    content: bytes
    payload: bytes | None
    recorded_at: datetime | None = None
    dated: bool = False


class Unreadable(msgspec.Struct, frozen=True):
    """A delivery, or an entry of one, that can't be taken, and why.

    `body` is the delivery as received, restricted to that entry. `reason` is a fixed word, `detail`
    names what and where, and quotes nothing. The ids are those of the user whom it is about, both
    or none: None where they can't be read, or there may be several users.
    """

    body: bytes
    reason: str
    detail: str
    application_id: str | None = None
    user_id: str | None = None

    def __repr__(self) -> str:
        """Quote nothing."""
        return f"Unreadable({self.reason}: {self.detail})"


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the log.

    `occurred_at` is at most CLOCK_AHEAD_MAX after `recorded_at`: an event that is dated later
    counts as having occurred when it was recorded.

    `payload` is None once its user has been erased; `after_erasure` tells events that came later.
    `identity` is keyed by the user's key, so it tells nothing of what the event is about.
    """

    position: Position
    stream: Stream
    kind: Kind
    occurred_at: datetime
    recorded_at: datetime
    identity: bytes
    payload: bytes | None
    after_erasure: bool = False


class Outcome(enum.Enum):
    """The outcome of appending an event."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """Same identity, other content: not in the log, and not to be dropped."""


class Appended(NamedTuple):
    """The log's answer for one event; a duplicate's or conflict's position is the first one's."""

    outcome: Outcome
    position: Position
