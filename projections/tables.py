"""Tables of read models: their statements, and how rows get into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from projections.fold.folder import Folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventstore.postgres.sessions import Connection

_ROWS_AT_ONCE = 200
_OF_USER = "partition = $1 AND generation = $2 AND stream_id"

Row: TypeAlias = tuple[Any, ...]


class Generation(msgspec.Struct, frozen=True):
    """One generation of the read models in one partition."""

    partition: int
    number: int


def _never(_folded: Folded) -> bool:
    return False


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A read model: the table of this name in the session's schema.

    `columns` are those after partition and generation, with their types; the first is stream_id.
    `key` names those that distinguish the rows of one user, the last one for people.

    Without a key a user has at most one row, and `rows` makes it from the state alone, since a
    fold need not have all entries. It is written over; if `rows` yields none, it is removed.
    With a key `rows` makes the rows of the fold's entries, which are added to those that are
    there, except in two cases: in a fold of the whole user, and if the table wants them
    `replaced`, all rows of the user are removed first. If the row of an entry is there already,
    the columns in `added` are added to it.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...]
    rows: Callable[[Folded], Iterator[Row]]
    added: tuple[str, ...] = ()
    replaced: Callable[[Folded], bool] = _never

    @property
    def put(self) -> str:
        """Write rows, given as one array for each column."""
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(self.columns.values(), 3))
        return (
            f"INSERT INTO {self.name} (partition, generation, {', '.join(self.columns)})"
            f" SELECT $1, $2, t.* FROM unnest({arrays}) AS t {self._on_conflict()}"
        )

    def _on_conflict(self) -> str:
        if self.key and not self.added:
            return ""
        changes = [f"{name} = {self.name}.{name} + excluded.{name}" for name in self.added]
        others = (name for name in self.columns if name != "stream_id")
        changes = changes or [f"{name} = excluded.{name}" for name in others]
        key = ", ".join(("partition", "stream_id", "generation", *self.key))
        return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}"

    @property
    def drop(self) -> str:
        """Remove a user's rows."""
        return f"DELETE FROM {self.name} WHERE {_OF_USER} = $3"

    @property
    def select(self) -> str:
        """Read the rows of a range of users, user by user."""
        return (
            f"SELECT {', '.join(self.columns)} FROM {self.name}"
            f" WHERE {_OF_USER} BETWEEN $3 AND $4"
            f" ORDER BY {', '.join(('stream_id', *self.key))}"
        )

    @property
    def sums(self) -> str:
        """Count the rows of generations by their first byte, with a sum that no order changes."""
        return (
            "SELECT generation, get_byte(uuid_send(stream_id), 0) AS bucket, count(*) AS rows,"
            f" sum(hash_record_extended(ROW ({', '.join(self.columns)}), 0)) AS checksum"
            f" FROM {self.name} WHERE partition = $1 AND generation = ANY($2) GROUP BY 1, 2"
        )


async def write(
    tables: Iterable[Table], connection: Connection, where: Generation, folded: Sequence[Folded]
) -> None:
    """Write what is new of some users into read models."""
    for table in tables:
        rows: Iterator[Row]
        if table.key:
            removed = [one for one in folded if one.whole or table.replaced(one)]
            rows = (row for one in folded for row in table.rows(one))
        else:
            only = [(one, next(table.rows(one), None)) for one in folded]
            removed = [one for one, row in only if row is None]
            rows = (row for _, row in only if row is not None)
        if removed:
            keys = [(where.partition, where.number, one.stream.stream_id) for one in removed]
            await connection.executemany(table.drop, keys)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            args = (where.partition, where.number, *zip(*some, strict=True))
            await connection.execute(table.put, *args)
