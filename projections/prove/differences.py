"""Where stored rows differ from what they should be: in names alone, never in values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from projections.deliveries.values import is_object

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Sequence

    from projections.tables import Table


class Row(Protocol):
    """A row as it was made, or as the driver read it."""

    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401 - a column's value

    def __iter__(self) -> Iterator[Any]: ...


# Columns of JSON objects, whose names are more precise than the column's.
_OBJECTS = ("state", "since")
_KEPT_MAX = 1_000


class Difference(msgspec.Struct, kw_only=True):
    """A row that is missing, too many, or not as it should be in some fields.

    `position` is that of the event that it is about; `at` what tells it from the user's other
    rows of the table. Who the user is, is added when all is compared.
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
    table: Table, partition: int, right: Sequence[Row], stored: Sequence[Row]
) -> Iterator[Difference]:
    """Compare one user's rows in a table with what they should be."""
    if right == stored:
        return
    expected, found = _by_key(table, right), _by_key(table, stored)
    for key in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(key), found.get(key)
        if ours != theirs:
            row = dict(zip(table.columns, ours or theirs or (), strict=True))
            yield Difference(
                table=table.name,
                what="missing" if theirs is None else "surplus" if ours is None else "differs",
                at=_name(partition, table, key),
                fields=list(_fields(table, ours, theirs)) if ours and theirs else [],
                position=row.get("position"),
                partition=partition,
                stream_id=_hex(row["stream_id"]),
            )


def _by_key(table: Table, rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    columns = list(table.columns)
    indexes = [columns.index(name) for name in table.key]
    return {tuple(row[n] for n in indexes): row for row in rows}


def _name(partition: int, table: Table, key: tuple[Any, ...]) -> str | None:
    if not key:
        return None
    if table.key[-1] == "position":
        return f"{partition}:{key[-1]}"
    return key[-1].hex() if isinstance(key[-1], bytes) else str(key[-1])


def _hex(stream_id: uuid.UUID) -> str:
    return stream_id.hex


def _fields(table: Table, ours: Row, theirs: Row) -> Iterator[str]:
    for column, right, stored in zip(table.columns, ours, theirs, strict=True):
        if right != stored:
            names = list(_names(right, stored)) if column in _OBJECTS else []
            yield from (f"{column}.{name}" for name in names) if names else (column,)


def _names(right: str, stored: str) -> Iterator[str]:
    """Return the names whose values differ; none if the texts differ in another way."""
    ours, theirs = _decode(right), _decode(stored)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or ours[name] != theirs[name]:
            yield name


def _decode(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return value if is_object(value) else {}
