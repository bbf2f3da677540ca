"""The states that the read models have of users, for their next events to be folded onto."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.events import Kind, Position
from eventstore.postgres import statements
from projections.fold.events import UserEvent, order_key_of
from projections.fold.state import UserState, lifecycle_of
from projections.sealed import open_user

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    import asyncpg

    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.columns import ColumnKey
    from projections.tables import Generation

_SQL = statements.load("projections.project")


class Stored:
    """The rows of users that the read models have, opened one by one."""

    def __init__(self, rows: Sequence[asyncpg.Record], partition: int) -> None:
        self._rows = {row["stream_id"]: row for row in rows}
        self._partition = partition

    def state(self, stream_id: uuid.UUID, key: ColumnKey | None) -> UserState | None:
        """Return a user's state, if there is one; SealBrokenError if it does not open."""
        row = self._rows.get(stream_id)
        if row is None or key is None:
            return None
        found = open_user(key, row)
        fields: dict[str, Any] = msgspec.json.decode(found.state)
        last = UserEvent(
            order_key=order_key_of(row["occurred_at"], row["kind"], row["tie_break"]),
            position=Position(self._partition, row["position"]),
            kind=Kind(row["kind"]),
            occurred_at=row["occurred_at"],
            recorded_at=row["recorded_at"],
            company_id=found.company_id,
            fields={},
        )
        return UserState(
            found.company_id, lifecycle_of(row["lifecycle"]), fields, last, found.since
        )


async def read(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> Stored:
    """Read the rows of those users that have one."""
    rows = await connection.fetch(_SQL["users_get"], where.partition, where.number, stream_ids)
    return Stored(rows, where.partition)
