"""Users who are set aside: an event of theirs can't be projected, so their rows stand still.

They are marked for each generation, in the transaction that would have projected the event.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.events import Position
from eventstore.postgres import statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping

    from eventstore.events import Stream
    from eventstore.postgres.database import Connection, Pool
    from projections.fold.poison import PoisonError
    from projections.tables import Generation

_SQL = statements.load("projections")


class SetAside(msgspec.Struct, frozen=True):
    """A user who is set aside, the event that is in the way, and since when it is."""

    position: str
    reason: str
    since: datetime
    application_id: str
    user_id: str


async def among(
    connection: Connection, where: Generation, stream_ids: list[uuid.UUID]
) -> set[uuid.UUID]:
    """Return which of some users are set aside."""
    rows = await connection.fetch(_SQL["aside_of"], where.partition, where.number, stream_ids)
    return {row["stream_id"] for row in rows}


async def put(
    connection: Connection, where: Generation, poison: Mapping[uuid.UUID, PoisonError]
) -> None:
    """Set users aside, each because of an event; one who is already, because of another."""
    numbers = [error.position.number for error in poison.values()]
    reasons = [error.reason for error in poison.values()]
    args = (where.partition, where.number, list(poison), numbers, reasons)
    await connection.execute(_SQL["aside_put"], *args)


async def drop(connection: Connection, where: Generation, stream_ids: Iterable[uuid.UUID]) -> None:
    """Let users go on."""
    keys = [(where.partition, where.number, stream_id) for stream_id in stream_ids]
    await connection.executemany(_SQL["aside_drop"], keys)


async def position_of(
    connection: Connection, where: Generation, stream_id: uuid.UUID
) -> int | None:
    """Return the number of the event that keeps a user set aside."""
    number: int | None = await connection.fetchval(
        _SQL["aside_at"], where.partition, where.number, stream_id
    )
    return number


async def reason_for(pool: Pool, stream: Stream) -> tuple[Position, str, datetime] | None:
    """Return what keeps a user set aside in the generation that answers, and since when."""
    with database_errors():
        row = await pool.fetchrow(_SQL["aside"], stream.partition, stream.stream_id)
    if row is None:
        return None
    return Position(stream.partition, row["position"]), row["reason"], row["since"]


async def count(pool: Pool) -> int:
    """Return how many users are set aside in the generation that answers."""
    with database_errors():
        number: int = await pool.fetchval(_SQL["aside_count"])
    return number


async def everyone(pool: Pool) -> list[SetAside]:
    """Return all who are set aside in the generation that answers."""
    with database_errors():
        rows = await pool.fetch(_SQL["aside_list"])
    return [
        SetAside(
            str(Position(row["partition"], row["position"])),
            *(row["reason"], row["since"], row["application_id"], row["user_id"]),
        )
        for row in rows
    ]
