"""Checkpoints: how far each generation has come in each partition.

Everything up to a checkpoint's position is in the read models, nothing after it. The row's lock
makes its holder the only projector of that partition and generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from eventstore.events import Position
from eventstore.postgres import statements
from projections.fold.state import FOLD_VERSION

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from projections.tables import Generation

    State: TypeAlias = Literal["building", "live"]

_SQL = statements.load("projections.project")


async def lock(connection: Connection, where: Generation) -> int | None:
    """Lock a checkpoint for a batch; None if another projector has it, or it is gone."""
    number: int | None = await connection.fetchval(_SQL["checkpoint_lock"], *_key(where))
    return number


async def hold(connection: Connection, where: Generation) -> int | None:
    """Lock a checkpoint, waiting for its holder; None if it is gone."""
    number: int | None = await connection.fetchval(_SQL["checkpoint_hold"], *_key(where))
    return number


async def find(connection: Connection, where: Generation) -> int | None:
    """Return the number of a checkpoint's position; None if it is gone."""
    number: int | None = await connection.fetchval(_SQL["checkpoint_of"], *_key(where))
    return number


async def move(connection: Connection, where: Generation, number: int) -> None:
    """Move a checkpoint that is locked."""
    await connection.execute(_SQL["checkpoint_move"], *_key(where), number)


async def active(source: Pool | Connection, partition: int) -> tuple[int, Position] | None:
    """Return the active generation, and where it is in a partition; None without that partition."""
    row = await source.fetchrow(_SQL["checkpoint"], partition)
    return None if row is None else (row["generation"], Position(partition, row["position"]))


async def generations(connection: Connection, state: State) -> list[int]:
    """Return the numbers of the generations in a state, the newest first."""
    rows = await connection.fetch(_SQL["generations"], state)
    return [row["generation"] for row in rows]


async def followed(connection: Connection) -> list[int]:
    """Return the numbers of the generations to keep up to date, the newest first.

    Those that another fold makes are left to the code that has it.
    """
    rows = await connection.fetch(_SQL["generations_followed"], FOLD_VERSION)
    return [row["generation"] for row in rows]


def _key(where: Generation) -> tuple[int, int]:
    return where.partition, where.number
