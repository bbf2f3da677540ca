"""Repair: one user's rows made again from the log, in place, while everything goes on.

In every generation that is kept up to date, at its checkpoint's position and with its row held,
so that the projector goes on from exactly there; one transaction each. It lets a user go on who
was set aside, and mends rows that were damaged by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import store
from eventstore.errors import database_errors
from eventstore.events import Position
from eventstore.postgres import statements
from projections import tables
from projections.fold.folder import Folder
from projections.fold.timeslice import Turns
from projections.project import parked
from projections.project.projector import generations
from projections.tables import Folded, Generation

if TYPE_CHECKING:
    from eventstore.events import Stream
    from eventstore.log import EventLog
    from eventstore.postgres.database import Connection
    from projections.fold.poison import PoisonError

_SQL = statements.load("projections")


async def repair(log: EventLog, stream: Stream) -> PoisonError | None:
    """Make a user's rows again; return the event that still can't be projected, if there is one.

    Then the user is, or stays, set aside if they were, with all that can be read before it; the
    rows of a user who was not are left as they are.
    """
    left: PoisonError | None = None
    for number in await generations(log, "live"):
        where = Generation(stream.partition, number)
        with database_errors():
            async with log.pool.acquire() as connection, connection.transaction():
                key = (where.partition, "users", where.number)
                reached: int | None = await connection.fetchval(_SQL["checkpoint_hold"], *key)
                if reached is not None:  # the generation may have gone meanwhile
                    left = await _repair(connection, log, where, stream, reached) or left
    return left


async def _repair(
    connection: Connection, log: EventLog, where: Generation, stream: Stream, reached: int
) -> PoisonError | None:
    until = Position(where.partition, reached)
    rows = await store.rows_of_streams(connection, [stream.stream_id], until)
    folder = Folder(where.partition, log.keyring)
    folded, poison = folder.erased(rows), None
    if folded is None:
        folded, poison = await Turns().do(folder.refolding_until_poison(rows))
    if poison is None:
        await tables.write(connection, where, [folded or Folded(stream, None, [], whole=True)])
        await parked.drop(connection, where, [stream.stream_id])
        return None
    mark = await parked.position_of(connection, where, stream.stream_id)
    if mark is not None and mark < poison.position.number:
        await tables.write(connection, where, [folded] if folded else [])
        await parked.put(connection, where, {stream.stream_id: poison})
    return poison
