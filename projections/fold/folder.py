"""Folding sealed rows of the log: opened, read and folded, user by user. No I/O.

Each row is opened on its own, so that one which does not open, can't be read or makes the fold
fail is known by its position, and stops nothing but its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from eventstore import read
from eventstore.events import Position, Stream
from projections.fold.events import UserEvent, read_event
from projections.fold.history import HistoryEntry, late_positions, replaying, step
from projections.fold.poison import PoisonError, poison_of
from projections.fold.state import UserState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    import asyncpg

    from eventstore.sealing.columns import ColumnKey
    from eventstore.sealing.keyring import Keyring
    from projections.fold.interruptible import Work
    from projections.fold.search_keys import SearchKey

    Rows: TypeAlias = list[asyncpg.Record]


class RowKeys(NamedTuple):
    """What rows are made with: the user's key for sealed columns, and the log's for terms."""

    columns: ColumnKey
    search: SearchKey


class Folded(msgspec.Struct, frozen=True):
    """What the fold makes of one user.

    `entries` are those that are new or, if `whole`, all there are: then they replace what a read
    model has. Without a state the user is erased, and there are no `keys` to make rows with.
    """

    stream: Stream
    state: UserState | None
    entries: list[HistoryEntry]
    whole: bool
    keys: RowKeys | None = None


def group_by_user(rows: Iterable[asyncpg.Record]) -> dict[uuid.UUID, Rows]:
    """Group rows by user, as they came."""
    found: dict[uuid.UUID, Rows] = {}
    for row in rows:
        found.setdefault(row["stream_id"], []).append(row)
    return found


class Folder:
    """Folds rows of one partition; with the log's `search` key, so that rows can be made of it."""

    def __init__(self, partition: int, keyring: Keyring, search: SearchKey | None = None) -> None:
        self._partition = partition
        self._keyring = keyring
        self._search = search

    def read(self, row: asyncpg.Record) -> UserEvent:
        """Open and read an event; PoisonError if that is impossible."""
        try:
            return read_event(read.open_event(row, self._partition, self._keyring))
        except Exception as error:
            raise self._poison(row, error) from error

    def read_sized(self, row: asyncpg.Record) -> tuple[UserEvent, int]:
        """Do the same; return the bytes of its payload as well."""
        try:
            event = read.open_event(row, self._partition, self._keyring)
            return read_event(event), len(event.payload or b"")
        except Exception as error:
            raise self._poison(row, error) from error

    def _poison(self, row: asyncpg.Record, error: Exception) -> PoisonError:
        return poison_of(Position(self._partition, row["position"]), error)

    def reading(self, rows: Rows) -> Work[list[UserEvent]]:
        """Read events; the work can be interrupted after each."""
        events: list[UserEvent] = []
        for row in rows:
            events.append(self.read(row))
            yield
        return events

    def advancing(
        self, state: UserState | None, rows: Rows, columns: ColumnKey | None
    ) -> Work[Folded | None]:
        """Fold a user's next events onto their state; None if one came late: refold them.

        `columns` is what `key_of` has returned, which the state was opened with.
        """
        events = yield from self.reading(rows)
        if late_positions(events, state.last.order_key if state else b""):
            return None
        entries: list[HistoryEntry] = []
        for event in events:
            state, entry = step(state, event, late=False)
            entries.append(entry)
            yield
        return Folded(self._stream(rows), state, entries, whole=False, keys=self._keys(columns))

    def refolding(self, rows: Rows) -> Work[Folded]:
        """Fold all events of a user, in whatever order they came."""
        events = yield from self.reading(rows)
        state, entries = yield from replaying(events)
        keys = self._keys(self.key_of(rows))
        return Folded(self._stream(rows), state, entries, whole=True, keys=keys)

    def refolding_until_poison(self, rows: Rows) -> Work[tuple[Folded | None, PoisonError | None]]:
        """Fold the events below the first that can't be projected; return its error, if any."""
        poison: PoisonError | None = None
        while rows:
            try:
                folded = yield from self.refolding(rows)
            except PoisonError as error:
                poison = error
                rows = [row for row in rows if row["position"] < error.position.number]
            else:
                return folded, poison
        return None, poison

    def folding(self, rows: Rows) -> Work[Folded]:
        """Fold all events of a user who may have been erased; PoisonError names a bad one."""
        return self.erased(rows) or (yield from self.refolding(rows))

    def erased(self, rows: Rows) -> Folded | None:
        """Return what is left of a user if they are erased, which leaves nothing to read."""
        if all(read.has_payload(row) for row in rows):
            return None
        return Folded(self._stream(rows), None, [], whole=True)

    def key_of(self, rows: Rows) -> ColumnKey | None:
        """Return the key of a user's columns; None if they are erased."""
        key = self._keyring.of_row(rows[0])
        return key.for_columns() if key else None

    def _keys(self, columns: ColumnKey | None) -> RowKeys | None:
        return RowKeys(columns, self._search) if columns and self._search else None

    def _stream(self, rows: Rows) -> Stream:
        return read.stream_of(rows[0], self._partition)
