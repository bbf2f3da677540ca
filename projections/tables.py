"""The read models as tables: the rows that a folded user has in each, and how they get there.

To add a read model: a table in schema.sql that has a partition for each generation, erase() and
`<table>_put`, `_drop`, `_rows` and `_sums` in queries.sql for it, a pure function from a folded
user to its rows, and a line in TABLES. Projector, rebuild and proof need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from eventstore.events import Kind, Position
from eventstore.postgres import statements
from projections.fold.events import UserEvent
from projections.fold.folder import Folded
from projections.fold.search_keys import FIELDS, terms_of
from projections.fold.state import UserState, encode_fields

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence
    from datetime import date

    import asyncpg

    from eventstore.postgres.pool import Connection

TABLES_SQL = statements.load("projections")
_ROWS_AT_ONCE = 200
_encode = msgspec.json.Encoder(order="sorted").encode

Row: TypeAlias = tuple[Any, ...]


class Generation(msgspec.Struct, frozen=True):
    """One generation of the read models in one partition."""

    partition: int
    number: int


def _never(_folded: Folded) -> bool:
    return False


class Table(msgspec.Struct, frozen=True):
    """A read model: `userlog.<name>`, whose columns after partition and generation these are.

    `key` names those that tell the rows of one user apart, the last one for people. The rows of
    new entries are added to those that are there, unless the table says that they are `replaced`;
    all of a user's rows are, if the fold is of the whole user.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: Callable[[Folded], Iterator[Row]]
    replaced: Callable[[Folded], bool] = _never


def _users(folded: Folded) -> Iterator[Row]:
    stream, state = folded.stream, folded.state
    if state:
        yield (
            stream.stream_id,
            stream.application_id,
            stream.user_id,
            state.company_id,
            state.lifecycle,
            encode_fields(state.fields).decode(),
            encode_fields(state.since).decode(),
            state.last.order_key,
            state.last.position.number,
            state.last.kind,
            state.last.occurred_at,
            state.last.recorded_at,
        )


def _history(folded: Folded) -> Iterator[Row]:
    for entry in folded.entries:
        yield (
            folded.stream.stream_id,
            entry.event.order_key,
            entry.event.position.number,
            entry.event.kind,
            entry.event.occurred_at,
            entry.event.recorded_at,
            entry.event.stated_at,
            entry.late,
            _encode(entry.summary).decode(),
            _encode(entry.changes).decode(),
        )


def _activity(folded: Folded) -> Iterator[Row]:
    """Count by day, in UTC, what a user adds to their application's numbers."""
    days: dict[date, list[int]] = {}
    for entry in folded.entries:
        was, now = entry.before, entry.after
        if was != now:
            counts = days.setdefault(entry.event.occurred_at.date(), [0, 0, 0, 0])
            counts[0] += was is None
            counts[1] += now == "deleted"
            counts[2] += now == "blocked"
            counts[3] += (now == "active") - (was == "active")
    for day, counts in days.items():
        if any(counts):
            yield (folded.stream.stream_id, folded.stream.application_id, day, *counts)


def _terms_change(folded: Folded) -> bool:
    changed = (change.field for entry in folded.entries for change in entry.changes)
    return any(field in FIELDS for field in changed)


def _terms(folded: Folded) -> Iterator[Row]:
    if folded.state and (folded.whole or _terms_change(folded)):
        stream = folded.stream
        for term in sorted(terms_of(stream.application_id, folded.state.fields)):
            yield (stream.stream_id, term)


TABLES = (
    Table(
        "users",
        (
            *("stream_id", "application_id", "user_id", "company_id", "lifecycle", "state"),
            *("since", "order_key", "position", "kind", "occurred_at", "recorded_at"),
        ),
        (),
        _users,
    ),
    Table(
        "history",
        (
            *("stream_id", "order_key", "position", "kind", "occurred_at", "recorded_at"),
            *("stated_at", "late", "summary", "changes"),
        ),
        ("order_key", "position"),
        _history,
    ),
    Table(
        "activity",
        ("stream_id", "application_id", "day", "created", "deleted", "blocked", "active"),
        ("day",),
        _activity,
    ),
    Table("terms", ("stream_id", "term"), ("term",), _terms, _terms_change),
)


async def write(connection: Connection, where: Generation, folded: Sequence[Folded]) -> None:
    """Write what is new of some users into every read model."""
    for table in TABLES:
        if dropped := [one.stream.stream_id for one in folded if _is_dropped(table, one)]:
            keys = [(where.partition, where.number, stream_id) for stream_id in dropped]
            await connection.executemany(TABLES_SQL[f"{table.name}_drop"], keys)
        rows = (row for one in folded for row in table.rows(one))
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            put = TABLES_SQL[f"{table.name}_put"]
            await connection.execute(put, where.partition, where.number, *zip(*some, strict=True))


def _is_dropped(table: Table, folded: Folded) -> bool:
    """Say whether a user's rows have to go first; an only row is written over."""
    if not table.key:
        return folded.state is None
    return folded.whole or table.replaced(folded)


def state_of(row: asyncpg.Record, partition: int) -> UserState:
    """Read a row of users."""
    fields: dict[str, Any] = msgspec.json.decode(row["state"])
    last = UserEvent(
        order_key=row["order_key"],
        position=Position(partition, row["position"]),
        kind=Kind(row["kind"]),
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        company_id=row["company_id"],
        fields={},
    )
    since: dict[str, int] = msgspec.json.decode(row["since"])
    return UserState(row["company_id"], row["lifecycle"], fields, last, since)


async def read_states(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, UserState]:
    """Read the states of those users that have one."""
    rows = await connection.fetch(
        TABLES_SQL["users_get"], where.partition, where.number, stream_ids
    )
    return {row["stream_id"]: state_of(row, where.partition) for row in rows}
