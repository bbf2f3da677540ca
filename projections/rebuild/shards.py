"""Shards of a rebuild: ranges of users that are folded in memory and written once, with COPY.

A shard's rows and the mark that it is done are one transaction, and the shard's row is locked
while it is worked at. So no shard is loaded twice, whatever dies, and any number of processes may
work at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventstore import read
from eventstore.events import Position
from eventstore.postgres import statements
from projections.fold.folder import Folded, Folder
from projections.fold.interruptible import run_at_once
from projections.fold.poison import PoisonError
from projections.project import parked
from projections.project.search_key import search_key
from projections.prove.ranges import Range, split
from projections.read_models import TABLES
from projections.tables import Generation

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from eventstore.log import EventLog
    from eventstore.postgres.sessions import Connection
    from eventstore.read import Head
    from projections.fold.folder import Rows
    from projections.tables import Row, Table

_SQL = statements.load("projections.rebuild")
_PIECE_ROWS = 4_000
# Sealed; what is folded from them takes about ten times as much.
_PIECE_BYTES = 1 << 20


class Shard(msgspec.Struct, frozen=True):
    """A range of users, and the position up to which their events are folded."""

    number: int
    users: Range
    until: int


def plan(heads: Sequence[Head], events_max: int, workers: int) -> list[Shard]:
    """Cut the log into shards of at most about so many events.

    If there are several, as many for each worker: else one works at the last while others are done.
    """
    whole = sum(head.position.number for head in heads)
    workers_each = -(-workers // len(heads)) if whole > events_max else 1
    return [
        Shard(number, users, head.position.number)
        for head in heads
        for number, users in enumerate(
            split(head.position.partition, _count(head.position.number, events_max, workers_each))
        )
    ]


def _count(events: int, events_max: int, workers: int) -> int:
    return max(1, -(-events // (events_max * workers))) * workers


async def store_plan(connection: Connection, generation: int, shards: Sequence[Shard]) -> None:
    """Write down what there is to load."""
    rows = [(s.users.partition, s.number, s.users.first, s.users.last, s.until) for s in shards]
    columns = zip(*rows, strict=True)
    await connection.execute(_SQL["shards_new"], generation, *map(list, columns))


async def load_open(
    log: EventLog, generation: int, begin: int = 0, *, parking: bool = False
) -> None:
    """Load shards until all are loaded or claimed by other workers, from one partition on.

    A user with an event that can't be projected is parked if `parking`; else it is a PoisonError.
    """
    search = await search_key(log)
    async with log.connection() as connection:
        for n in range(log.partitions):
            partition = (begin + n) % log.partitions
            where = Generation(partition, generation)
            folder = Folder(partition, log.keyring, search)
            while await _load_next(connection, log, folder, where, parking=parking):
                pass


async def _load_next(
    connection: Connection, log: EventLog, folder: Folder, where: Generation, *, parking: bool
) -> bool:
    """Load a partition's next open shard; False if there is none."""
    partition, generation = where.partition, where.number
    async with connection.transaction():
        row = await connection.fetchrow(_SQL["shard_claim"], partition, generation)
        if row is None:
            return False
        users = Range(partition, row["first_stream"], row["last_stream"])
        load = _Load(log, connection, folder, where, parking=parking)
        until = Position(partition, row["until"])
        async for rows in read.rows_of_range(connection, users.first, users.last, until):
            await load.add(rows)
        await load.flush()
        done = (partition, generation, row["shard"], load.events, load.users)
        await connection.execute(_SQL["shard_done"], *done)
    return True


class _Load:
    """Rows on their way into a generation's tables, in pieces of bounded size."""

    def __init__(
        self,
        log: EventLog,
        connection: Connection,
        folder: Folder,
        where: Generation,
        *,
        parking: bool,
    ) -> None:
        self._log = log
        self._connection = connection
        self._generation = where
        self._where = (where.partition, where.number)
        self._folder = folder
        self._parking = parking
        self._poison: dict[uuid.UUID, PoisonError] = {}
        self._pieces: list[tuple[Table, list[Row]]] = [(table, []) for table in TABLES]
        self._bytes = 0
        self.events = 0
        self.users = 0

    async def add(self, rows: Rows) -> None:
        """Take all events of a user; of one who was erased there is nothing to write."""
        self.events += len(rows)
        one = self._fold(rows)
        if one is None or one.state is None:
            return
        self.users += 1
        self._bytes += sum(len(event["payload"]) for event in rows)
        for table, piece in self._pieces:
            piece.extend(self._where + row for row in table.rows(one))
        if self._bytes >= _PIECE_BYTES or max(len(p) for _, p in self._pieces) >= _PIECE_ROWS:
            await self.flush()

    def _fold(self, rows: Rows) -> Folded | None:
        try:
            return run_at_once(self._folder.folding(rows))
        except PoisonError:
            if not self._parking:
                raise
        folded, poison = run_at_once(self._folder.refolding_until_poison(rows))
        if poison:
            self._poison[rows[0]["stream_id"]] = poison
        return folded

    async def flush(self) -> None:
        """Write the rows that are collected."""
        for table, piece in self._pieces:
            if piece:
                await self._connection.copy_records_to_table(
                    f"{table.name}_g{self._where[1]}",
                    columns=("partition", "generation", *table.columns),
                    records=piece,
                )
                piece.clear()
        if self._poison:
            await self._log.check_master_key(self._connection)
            await parked.park(self._connection, self._generation, self._poison)
            self._poison.clear()
        self._bytes = 0
