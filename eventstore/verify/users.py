"""The users: names that belong to their ids, and a key if and only if nothing erased them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from eventstore.events import Kind, Position, Stream
from eventstore.postgres import statements
from eventstore.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from eventstore.postgres.sessions import Connection

_SQL = statements.load("eventstore.verify")
_PAGE_ROWS = 2_000
_BEFORE_ALL = uuid.UUID(int=0)


async def verify_users(
    connection: Connection,
    partition: int,
    between: tuple[uuid.UUID, uuid.UUID],
    partitions: int,
    counted: Callable[[int], None],
) -> Finding | None:
    """Verify the users of a partition whose streams' ids lie between two, both included.

    The finding names their first event. `counted` is called with how many, after each page.
    """
    after, last = between
    inclusive = True
    while True:
        bounds = (partition, after, last, _PAGE_ROWS, inclusive)
        rows = await connection.fetch(_SQL["verify_users"], *bounds)
        for row in rows:
            if problem := _problem(row, partitions):
                first = await connection.fetchval(_SQL["first_event"], partition, row["stream_id"])
                return Finding(Position(partition, first or 0), problem)
        counted(len(rows))
        if len(rows) < _PAGE_ROWS:
            return None
        after, inclusive = rows[-1]["stream_id"], False


def _problem(row: asyncpg.Record, partitions: int) -> str | None:
    named = Stream.of(row["application_id"], row["user_id"], partitions)
    if (named.partition, named.stream_id.bytes) != (row["partition"], row["stream_id"].bytes):
        return "belongs to a user whose names are not those that their id was made of"
    if not row["has_key"]:
        if row["kind_there"] != Kind.ERASED or row["stream_there"] != row["stream_id"]:
            return "belongs to a user whose key is gone without an erasure in the log"
    elif row["erased_position"] is not None:
        return "belongs to a user who was erased, and has a key"
    return None
