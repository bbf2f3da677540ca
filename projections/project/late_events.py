"""Late events: users who have one are folded again from the log, from their first event on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from eventstore import read
from projections.fold.folder import group_by_user

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator

    from eventstore.events import Position
    from eventstore.postgres.sessions import Connection
    from projections.fold.folder import Folded, Folder
    from projections.fold.poison import PoisonError
    from projections.fold.timeslice import Timeslices


class Refolded(NamedTuple):
    """A user after all their events, as far as the first that can't be projected."""

    stream_id: uuid.UUID
    folded: Folded | None
    poison: PoisonError | None


async def refold(
    connection: Connection,
    folder: Folder,
    timeslices: Timeslices,
    stream_ids: list[uuid.UUID],
    until: Position,
) -> AsyncGenerator[Refolded]:
    """Fold some users of a partition again, by their events up to a position."""
    rows = await read.rows_of_streams(connection, stream_ids, until)
    for stream_id, ours in group_by_user(rows).items():
        if erased := folder.erased(ours):
            yield Refolded(stream_id, erased, None)
        else:
            work = folder.refolding_until_poison(ours)
            yield Refolded(stream_id, *await timeslices.run(work))
