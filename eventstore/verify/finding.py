"""What is found where the log is not what it was, and what was noted of it elsewhere."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from eventstore.events import Position

What: TypeAlias = Literal["event", "audit row", "head", "checkpoint", "signed head"]


class Finding(msgspec.Struct, frozen=True):
    """The first place of a partition where the log is not what it was, and what is wrong there.

    `what` stands there: an event, a row of the audit at this number, or what is said of a position.
    """

    position: Position
    problem: str
    what: What = "event"

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
