"""A batch of the log's events, projected into one generation of the read models.

Users are folded one by one: a user whose event comes late, or can't be folded onto their row, is
folded again from the log, as far as the first event that can't be projected, if there is one. A
user who is parked is passed over.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from eventstore.errors import SealBrokenError
from eventstore.events import Position
from projections.fold.folder import group_by_user
from projections.fold.poison import PoisonError
from projections.fold.timeslice import BACKGROUND_S, Timeslices
from projections.project import parked, states
from projections.project.late_events import refold
from projections.project.rows import write as write_rows

if TYPE_CHECKING:
    import uuid

    from eventstore.postgres.sessions import Connection
    from projections.fold.folder import Folded, Folder, Rows
    from projections.tables import Generation

# What the database says of a row that it can't take, whatever others it came with.
ROW_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)


class Batch:
    """Folds and writes a batch; `poison` has each user's first event that can't be projected.

    To be used within the transaction that locks the checkpoint; `done` is its position.
    """

    def __init__(
        self, connection: Connection, folder: Folder, where: Generation, done: int
    ) -> None:
        self._connection = connection
        self._where = where
        self._done = done
        self._folder = folder
        self._timeslices = Timeslices(BACKGROUND_S)
        self._found: list[Folded] = []
        self._first: dict[uuid.UUID, int] = {}
        self._erased: list[uuid.UUID] = []
        self.poison: dict[uuid.UUID, PoisonError] = {}

    async def fold(self, rows: Rows) -> None:
        """Fold the batch's users upon what the read models have of them."""
        users = group_by_user(rows)
        self._first = {stream_id: ours[0]["position"] for stream_id, ours in users.items()}
        for stream_id, ours in users.items():
            if left := self._folder.erased(ours):
                self._erased.append(stream_id)
                self._found.append(left)
        passed_over = await parked.among(self._connection, self._where, list(users))
        passed_over.update(self._erased)
        others = await self._advance(
            {one: ours for one, ours in users.items() if one not in passed_over}
        )
        if others:
            await self._refold(others, Position(self._where.partition, rows[-1]["position"]))

    async def _advance(self, users: dict[uuid.UUID, Rows]) -> list[uuid.UUID]:
        """Fold new events onto the rows; return the users for whom that is impossible."""
        known = await states.read(self._connection, self._where, list(users))
        others: list[uuid.UUID] = []
        for stream_id, rows in users.items():
            folded = None
            with suppress(PoisonError, SealBrokenError):
                columns = self._folder.key_of(rows)
                state = known.state(stream_id, columns)
                folded = await self._timeslices.run(self._folder.advancing(state, rows, columns))
            if folded:
                self._found.append(folded)
            else:
                others.append(stream_id)
        return others

    async def _refold(self, stream_ids: list[uuid.UUID], until: Position) -> None:
        """Fold users from the beginning, as far as an event that can't be projected."""
        users = refold(self._connection, self._folder, self._timeslices, stream_ids, until)
        async for stream_id, folded, poison in users:
            if poison:
                self.poison[stream_id] = poison
            # If it is an old event that has gone bad, the rows are better than a fold without it.
            if folded and not (poison and poison.position.number <= self._done):
                self._found.append(folded)

    async def write(self, *, one_by_one: bool = False) -> None:
        """Write the rows, and park the users with poison.

        One of `ROW_ERRORS` if the database does not take some user's rows; `one_by_one` it is found
        out whose they are, and those users have poison, unless it takes none.
        """
        if one_by_one:
            refused = await self._write_in_parts(self._found)
            if len(refused) == len(self._found) > 1:  # it is nothing about a user
                raise refused[0]
        else:
            await write_rows(self._connection, self._where, self._found)
        if self._erased:
            await parked.unpark(self._connection, self._where, self._erased)
        if self.poison:
            await parked.park(self._connection, self._where, self.poison)

    async def _write_in_parts(self, found: list[Folded]) -> list[Exception]:
        """Write the rows of some users, and if that fails each half by itself; return failures."""
        try:
            async with self._connection.transaction():
                await write_rows(self._connection, self._where, found)
        except ROW_ERRORS as error:
            if len(found) == 1:
                stream_id = found[0].stream.stream_id
                position = Position(self._where.partition, self._first[stream_id])
                self.poison.setdefault(stream_id, PoisonError(position, type(error).__name__))
                return [error]
            middle = len(found) // 2
            refused = await self._write_in_parts(found[:middle])
            return refused + await self._write_in_parts(found[middle:])
        return []
