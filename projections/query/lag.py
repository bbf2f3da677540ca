"""Lag: how far every generation has come in every partition, and how far behind the log it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    import asyncpg

    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection

_SQL = statements.load("projections.query")


class Lag(msgspec.Struct, frozen=True):
    """How far one generation of a partition has come; seconds since the oldest waiting event."""

    partition: int
    generation: int
    state: str
    active: bool
    head: int
    position: int
    lag_positions: int
    lag_s: float


async def lags(pool: Pool | Connection) -> list[Lag]:
    """Return the lag of every generation in every partition."""
    with database_errors():
        found = await pool.fetch(_SQL["status"])
    now = datetime.now(UTC)
    return [_lag_of(row, now) for row in found]


def _lag_of(row: asyncpg.Record, now: datetime) -> Lag:
    waiting: datetime | None = row["oldest_waiting"]
    return Lag(
        partition=row["partition"],
        generation=row["generation"],
        state=row["state"],
        active=row["active"],
        head=row["head"],
        position=row["position"],
        lag_positions=row["head"] - row["position"],
        lag_s=max(0.0, (now - waiting).total_seconds()) if waiting else 0.0,
    )
