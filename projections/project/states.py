"""The states that the read models have of users, for their next events to be folded onto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.events import Kind, Position
from eventstore.postgres import statements
from projections.fold.events import UserEvent
from projections.fold.state import UserState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    import asyncpg

    from eventstore.postgres.sessions import Connection
    from projections.tables import Generation

_SQL = statements.load("projections.project")


async def read(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, UserState]:
    """Read the states of those users that have one."""
    rows = await connection.fetch(_SQL["users_get"], where.partition, where.number, stream_ids)
    return {row["stream_id"]: _state_of(row, where.partition) for row in rows}


def _state_of(row: asyncpg.Record, partition: int) -> UserState:
    """Read a row of users."""
    fields: dict[str, Any] = msgspec.json.decode(row["state"])
    last = UserEvent(
        order_key=row["order_key"],
        position=Position(partition, row["position"]),
        kind=Kind(row["kind"]),
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        company_id=row["company_id"],
        fields={},
    )
    since: dict[str, int] = msgspec.json.decode(row["since"])
    return UserState(row["company_id"], row["lifecycle"], fields, last, since)
