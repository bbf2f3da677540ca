"""Where stored rows differ from what they should be: in names alone, never in values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Sequence

    from eventstore.sealing.columns import ColumnKey
    from projections.sealed import Opened
    from projections.tables import Table


class Row(Protocol):
    """A row as it was made, or as the driver read it."""

    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401 - a column's value

    def __iter__(self) -> Iterator[Any]: ...


_SEALED = "sealed"
_KEPT_MAX = 1_000


class Difference(msgspec.Struct, kw_only=True):
    """A row that is missing, too many, or not as it should be in some fields.

    `position` is that of the event that it is about; `at` what tells it from the user's other
    rows of the table. Who the user is, is added when all is compared. Numbers are of no user, and
    `at` is their quarter of an hour.
    """

    application_id: str = ""
    user_id: str = ""
    table: str
    what: Literal["missing", "surplus", "differs"]
    at: str | None
    fields: list[str]
    position: int | None
    partition: int
    stream_id: str


class Differences(msgspec.Struct):
    """How many users and rows were compared, how many rows differ, and the first of these."""

    users: int = 0
    rows: int = 0
    differing: int = 0
    first: list[Difference] = []

    def add(self, found: Iterable[Difference]) -> None:
        """Take what one comparison found."""
        for one in found:
            self.differing += 1
            if len(self.first) < _KEPT_MAX:
                self.first.append(one)

    def join(self, other: Differences) -> None:
        """Add what was found elsewhere."""
        self.users += other.users
        self.rows += other.rows
        self.differing += other.differing
        self.first += other.first[: _KEPT_MAX - len(self.first)]


def compare(
    table: Table,
    partition: int,
    right: Sequence[Row],
    stored: Sequence[Row],
    key: ColumnKey | None,
) -> Iterator[Difference]:
    """Compare one user's rows in a table with what they should be.

    Rows whose sealed bytes differ are opened with the user's key: what is equal then is equal, for
    another version of the compressor may write it in other bytes.
    """
    if right == stored:
        return
    expected, found = _by_key(table, right), _by_key(table, stored)
    for one in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(one), found.get(one)
        if ours == theirs:
            continue
        fields = list(_fields(table, ours, theirs, key)) if ours and theirs else []
        if ours and theirs and not fields:
            continue
        row = dict(zip(table.columns, ours or theirs or (), strict=True))
        yield Difference(
            table=table.name,
            what="missing" if theirs is None else "surplus" if ours is None else "differs",
            at=_name(partition, one, row),
            fields=fields,
            position=row.get("position"),
            partition=partition,
            stream_id=_hex(row["stream_id"]),
        )


def _by_key(table: Table, rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    columns = list(table.columns)
    indexes = [columns.index(name) for name in table.key]
    return {tuple(row[n] for n in indexes): row for row in rows}


def _name(partition: int, key: tuple[Any, ...], row: dict[str, Any]) -> str | None:
    """Return what tells a row from the user's others: the position of its event, if it has one."""
    if not key:
        return None
    if "position" in row:
        return f"{partition}:{row['position']}"
    return key[-1].hex() if isinstance(key[-1], bytes) else str(key[-1])


def _hex(stream_id: uuid.UUID) -> str:
    return stream_id.hex


def _fields(table: Table, ours: Row, theirs: Row, key: ColumnKey | None) -> Iterator[str]:
    for column, right, stored in zip(table.columns, ours, theirs, strict=True):
        if right != stored:
            yield from _names(table, ours, theirs, key) if column == _SEALED else (column,)


def _names(table: Table, ours: Row, theirs: Row, key: ColumnKey | None) -> Iterator[str]:
    """Return the names in a sealed column whose values differ, the column's if none is known."""
    right, stored = _opened(table, ours, key), _opened(table, theirs, key)
    if right is None or stored is None:
        yield _SEALED
    elif right.text != stored.text:
        both = right.named.keys() | stored.named.keys()
        names = sorted(name for name in both if right.named.get(name) != stored.named.get(name))
        yield from names or (_SEALED,)


def _opened(table: Table, row: Row, key: ColumnKey | None) -> Opened | None:
    if key is None or table.opened is None:
        return None
    return table.opened(key, dict(zip(table.columns, row, strict=True)))
