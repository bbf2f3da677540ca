"""Ranges of users: those whose stream ids lie between two bounds, user by user.

Stream ids are uniform hashes, so ranges of equal width hold about equally many users and events.
"""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg


_IDS = 1 << 128


class Range(msgspec.Struct, frozen=True):
    """Users of one partition, from one stream id to another, both included."""

    partition: int
    first: uuid.UUID
    last: uuid.UUID


def split(partition: int, count: int) -> list[Range]:
    """Cut a partition into so many ranges of equal width."""
    edges = [_IDS * n // count for n in range(count + 1)]
    return [
        Range(partition, uuid.UUID(int=first), uuid.UUID(int=end - 1))
        for first, end in pairwise(edges)
    ]


async def merged(
    sources: Sequence[AsyncGenerator[list[asyncpg.Record]]],
) -> AsyncGenerator[list[list[asyncpg.Record]]]:
    """Yield, user by user, what each source has of them; each comes ordered by stream id."""
    nothing: list[asyncpg.Record] = []
    heads = [await anext(source, nothing) for source in sources]
    while left := [head[0]["stream_id"] for head in heads if head]:
        first = min(left)
        ours = [head if head and head[0]["stream_id"] == first else [] for head in heads]
        yield ours
        for n, taken in enumerate(ours):
            if taken:
                heads[n] = await anext(sources[n], nothing)
