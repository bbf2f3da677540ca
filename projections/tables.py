"""Tables of read models: their statements, and how rows get into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from projections.fold.folder import Folded
from projections.sealed import Open

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventstore.postgres.sessions import Connection

_ROWS_AT_ONCE = 200
ARRAY_MAX = 1_000
_OF_USER = "partition = $1 AND generation = $2 AND stream_id"

Row: TypeAlias = tuple[Any, ...]


class Generation(msgspec.Struct, frozen=True):
    """One generation of the read models in one partition."""

    partition: int
    number: int


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A read model: the table of this name in the session's schema.

    `columns` are those after partition and generation, with their types; the first is stream_id.
    `key` names those that distinguish the rows of one user, the last one for people; if it is empty
    a user has at most one.

    If `rows` makes them `from_state` alone, a row is written over, and removed if there is none.
    Else `rows` makes the rows of the fold's entries, which are added to those that are there; in a
    fold of the whole user all rows of the user are removed first. If the row of an entry is there
    already, the columns in `replaced` are written over, and the arrays in `added` are added to it;
    they keep their last ARRAY_MAX members.

    A table with a column `sealed` has `opened`, which opens it for a comparison.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...]
    rows: Callable[[Folded], Iterator[Row]]
    from_state: bool = False
    replaced: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    opened: Open | None = None

    @property
    def is_added_to(self) -> bool:
        """Whether no row is ever written over."""
        return not self._on_conflict()

    @property
    def put(self) -> str:
        """Write rows, given as one array for each column."""
        kinds = self.columns.values()
        # An array of arrays is one array: its parts come as texts.
        arrays = ", ".join(
            f"${n}::{'text' if _is_array(kind) else kind}[]" for n, kind in enumerate(kinds, 3)
        )
        values = ", ".join(f"t.{name}::{kind}" for name, kind in self.columns.items())
        names = ", ".join(self.columns)
        return (
            f"INSERT INTO {self.name} (partition, generation, {names}) SELECT $1, $2, {values}"
            f" FROM unnest({arrays}) AS t ({names}) {self._on_conflict()}"
        )

    def arguments(self, rows: Sequence[Row]) -> list[Sequence[Any]]:
        """Return rows as `put` takes them."""
        columns = zip(*rows, strict=True)
        return [
            [f"{{{','.join(map(str, value))}}}" for value in values] if _is_array(kind) else values
            for kind, values in zip(self.columns.values(), columns, strict=True)
        ]

    def _on_conflict(self) -> str:
        others = tuple(name for name in self.columns if name != "stream_id")
        replaced = others if self.from_state else self.replaced
        changes = [f"{name} = excluded.{name}" for name in replaced]
        changes += [f"{name} = {self._sum_of(name)}" for name in self.added]
        if not changes:
            return ""
        key = ", ".join(("partition", "stream_id", "generation", *self.key))
        return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}"

    def _sum_of(self, name: str) -> str:
        ours, theirs = f"{self.name}.{name}", f"excluded.{name}"
        too_many = f"cardinality({ours}) + cardinality({theirs}) - {ARRAY_MAX}"
        return f"({ours} || {theirs})[greatest({too_many}, 0) + 1 :]"

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


def _is_array(kind: str) -> bool:
    return kind.endswith("[]")


async def write(
    tables: Iterable[Table], connection: Connection, where: Generation, folded: Sequence[Folded]
) -> None:
    """Write what is new of some users into read models."""
    for table in tables:
        rows: Iterator[Row]
        if table.from_state:
            only = [(one, next(table.rows(one), None)) for one in folded]
            removed = [one for one, row in only if row is None]
            rows = (row for _, row in only if row is not None)
        else:
            removed = [one for one in folded if one.whole]
            rows = (row for one in folded for row in table.rows(one))
        if removed:
            keys = [(where.partition, where.number, one.stream.stream_id) for one in removed]
            await connection.executemany(table.drop, keys)
        await _put(table, connection, where, rows)


async def _put(
    table: Table, connection: Connection, where: Generation, rows: Iterator[Row]
) -> None:
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        if table.is_added_to:
            ours = (where.partition, where.number)
            await connection.copy_records_to_table(
                table.name,
                columns=("partition", "generation", *table.columns),
                records=[ours + row for row in some],
            )
        else:
            args = (where.partition, where.number, *table.arguments(some))
            await connection.execute(table.put, *args)
