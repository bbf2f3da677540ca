"""Parked users: an event of theirs can't be projected, so their rows stay as they were before it.

A user is parked for each generation, in the transaction that would have projected the event.
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
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from projections.fold.poison import PoisonError
    from projections.tables import Generation

_SQL = statements.load("projections.project")


class ParkedUser(msgspec.Struct, frozen=True):
    """A parked user, the event that can't be projected, and since when they are parked."""

    position: str
    reason: str
    since: datetime
    application_id: str
    user_id: str


async def among(
    connection: Connection, where: Generation, stream_ids: list[uuid.UUID]
) -> set[uuid.UUID]:
    """Return which of some users are parked."""
    rows = await connection.fetch(_SQL["parked_of"], where.partition, where.number, stream_ids)
    return {row["stream_id"] for row in rows}


async def park(
    connection: Connection, where: Generation, poison: Mapping[uuid.UUID, PoisonError]
) -> None:
    """Park users, each because of an event; one who is parked already, because of another."""
    numbers = [error.position.number for error in poison.values()]
    reasons = [error.reason for error in poison.values()]
    args = (where.partition, where.number, list(poison), numbers, reasons)
    await connection.execute(_SQL["park"], *args)


async def unpark(
    connection: Connection, where: Generation, stream_ids: Iterable[uuid.UUID]
) -> None:
    """Let users be projected again."""
    keys = [(where.partition, where.number, stream_id) for stream_id in stream_ids]
    await connection.executemany(_SQL["unpark"], keys)


async def position_of(
    connection: Connection, where: Generation, stream_id: uuid.UUID
) -> int | None:
    """Return the number of the event because of which a user is parked."""
    number: int | None = await connection.fetchval(
        _SQL["parked_at"], where.partition, where.number, stream_id
    )
    return number


async def reason_for(pool: Pool, stream: Stream) -> tuple[Position, str, datetime] | None:
    """Return why a user is parked in the active generation, and since when, if they are."""
    with database_errors():
        row = await pool.fetchrow(_SQL["parked_why"], stream.partition, stream.stream_id)
    if row is None:
        return None
    return Position(stream.partition, row["position"]), row["reason"], row["since"]


async def count(source: Pool | Connection) -> int:
    """Return how many users are parked in the active generation."""
    with database_errors():
        number: int = await source.fetchval(_SQL["parked_count"])
    return number


async def list_all(pool: Pool) -> list[ParkedUser]:
    """Return all who are parked in the active generation."""
    with database_errors():
        rows = await pool.fetch(_SQL["parked_list"])
    return [
        ParkedUser(
            str(Position(row["partition"], row["position"])),
            *(row["reason"], row["since"], row["application_id"], row["user_id"]),
        )
        for row in rows
    ]


async def forget_generation(connection: Connection, number: int) -> None:
    """Forget who was parked in a generation that is gone."""
    await connection.execute(_SQL["parked_forget"], number)
