"""Millions of small values in little memory, found by name; the oldest leave first."""

from __future__ import annotations

NAME_BYTES = 16
_WAYS = 16


class CompactTable:
    """Values of one size by names of 16 random bytes, in buckets of 16.

    A name's bucket is chosen by its first bytes, and a full bucket lets its oldest go; so with 1.2
    times as much room as there are names, three in a hundred are not found. A value takes its size
    and about 30 bytes. The garbage collector has nothing to look at, and no growth copies more
    than a bucket.
    """

    def __init__(self, capacity: int, value_bytes: int) -> None:
        self._slot = NAME_BYTES + value_bytes
        self._full = self._slot * _WAYS
        self._buckets: list[bytearray | None] = [None] * max(1, capacity // _WAYS)

    def put(self, name: bytes, value: bytes) -> None:
        """Keep a value, instead of the one that had its name."""
        self.take(name)
        bucket = self._bucket(name)
        if len(bucket) == self._full:
            del bucket[: self._slot]
        bucket += name + value

    def take(self, name: bytes) -> bytes | None:
        """Remove a value and return it; None if it is not there."""
        bucket = self._bucket(name)
        at = bucket.find(name)
        while at > 0 and at % self._slot:  # what looks like the name is a part of something else
            at = bucket.find(name, at + 1)
        if at < 0:
            return None
        value = bytes(bucket[at + NAME_BYTES : at + self._slot])
        del bucket[at : at + self._slot]
        return value

    def __contains__(self, name: bytes) -> bool:
        """Say whether there is a value of a name."""
        value = self.take(name)
        if value is not None:
            self.put(name, value)
        return value is not None

    def clear(self) -> None:
        """Remove all values."""
        self._buckets = [None] * len(self._buckets)

    def _bucket(self, name: bytes) -> bytearray:
        at = int.from_bytes(name[:4]) % len(self._buckets)
        bucket = self._buckets[at]
        if bucket is None:
            bucket = self._buckets[at] = bytearray()
        return bucket
