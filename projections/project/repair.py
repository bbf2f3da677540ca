"""Repair: one user's rows made again from the log, in place, while everything goes on.

In every generation that is kept up to date, at its checkpoint's position and with its row locked,
so that the projector goes on from exactly there; one transaction each. It unparks a user whose
events can be projected again, and mends rows that were damaged by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.events import Position
from projections.fold.folder import Folded, Folder
from projections.fold.timeslice import Timeslices
from projections.project import checkpoints, parked
from projections.project.late_events import Refolded, refold
from projections.project.rows import write as write_rows
from projections.project.search_key import search_key
from projections.tables import Generation

if TYPE_CHECKING:
    from eventstore.events import Stream
    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from projections.fold.poison import PoisonError


async def repair(log: EventLog, stream: Stream) -> PoisonError | None:
    """Make a user's rows again; return the event that still can't be projected, if there is one.

    Then the user stays parked if they were, with all that can be read before it; the rows of a
    user who was not are left as they are.
    """
    left: PoisonError | None = None
    await search_key(log)  # before a transaction, which has a connection already
    async with log.connection() as connection:
        live = await checkpoints.generations(connection, "live")
    for number in live:
        where = Generation(stream.partition, number)
        async with log.transaction() as connection:
            reached = await checkpoints.hold(connection, where)
            if reached is not None:  # the generation may have gone meanwhile
                left = await _repair(connection, log, where, stream, reached) or left
    return left


async def _repair(
    connection: Connection, log: EventLog, where: Generation, stream: Stream, reached: int
) -> PoisonError | None:
    until = Position(where.partition, reached)
    folder = Folder(where.partition, log.keyring, await search_key(log))
    users = refold(connection, folder, Timeslices(), [stream.stream_id], until)
    # Not anext() with a default: CPython can't raise StopIteration with a tuple for it.
    found = [one async for one in users] or [Refolded(stream.stream_id, None, None)]
    _, folded, poison = found[0]
    if poison is None:
        await write_rows(connection, where, [folded or Folded(stream, None, [], whole=True)])
        await parked.unpark(connection, where, [stream.stream_id])
        return None
    await log.check_master_key(connection)
    parked_at = await parked.position_of(connection, where, stream.stream_id)
    if parked_at is not None and parked_at < poison.position.number:
        await write_rows(connection, where, [folded] if folded else [])
        await parked.park(connection, where, {stream.stream_id: poison})
    return poison
