"""The read models: the rows that a folded user has in each. No I/O.

To add one: a table in schema.sql that is partitioned by generation, a function here from a folded
user to its rows, and an entry in TABLES. Projector, rebuild, proof and erasure need nothing else.
Numbers of all users together are in `projections.numbers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.fold.events import tie_break_of
from projections.fold.search_keys import FIELDS
from projections.fold.state import LIFECYCLE_NUMBERS
from projections.sealed import entry_by_name, seal_entry, seal_user, user_by_name
from projections.tables import ARRAY_MAX, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.fold.folder import Folded, RowKeys
    from projections.fold.phones import Known
    from projections.tables import Row


def _users(folded: Folded) -> Iterator[Row]:
    stream, state = folded.stream, folded.state
    if state:
        yield (
            stream.stream_id,
            stream.application_id,
            stream.user_id,
            LIFECYCLE_NUMBERS[state.lifecycle],
            tie_break_of(state.last.order_key),
            state.last.position.number,
            state.last.kind,
            state.last.occurred_at,
            state.last.recorded_at,
            seal_user(_keys(folded).columns, stream.stream_id, state),
        )


def _history(folded: Folded) -> Iterator[Row]:
    for entry in folded.entries:
        yield (
            folded.stream.stream_id,
            tie_break_of(entry.event.order_key),
            entry.event.position.number,
            entry.event.kind,
            entry.event.occurred_at,
            entry.event.recorded_at,
            entry.late,
            LIFECYCLE_NUMBERS[entry.before],
            LIFECYCLE_NUMBERS[entry.after],
            seal_entry(_keys(folded).columns, folded.stream.stream_id, entry),
        )


def _keys(folded: Folded) -> RowKeys:
    assert folded.keys is not None, "rows are made by a folder that has the keys"  # noqa: S101
    return folded.keys


def _terms(folded: Folded) -> Iterator[Row]:
    """What a user is found by now and, in the order of events, was until a day in UTC."""
    first = any(entry.before is None for entry in folded.entries)  # then nothing was before
    changes = [
        (entry, change)
        for entry in folded.entries
        if entry.before is not None
        for change in entry.changes
        if change.field in FIELDS
    ]
    if not (folded.state and (first or changes)):
        return
    key = _keys(folded).search
    known: Known = {}
    terms = sorted(key.terms_of(folded.state.fields, known))
    left = [
        (term, entry.event.occurred_at.date())
        for entry, change in changes
        for term in sorted(key.terms_left(change, known))
    ][-ARRAY_MAX:]
    if terms or left:
        yield (folded.stream.stream_id, terms, [t for t, _ in left], [day for _, day in left])


USERS = Table(
    name="users",
    columns={
        "stream_id": "uuid",
        "application_id": "text",
        "user_id": "text",
        "lifecycle": "smallint",
        "tie_break": "bytea",
        "position": "bigint",
        "kind": "smallint",
        "occurred_at": "timestamptz",
        "recorded_at": "timestamptz",
        "sealed": "bytea",
    },
    key=(),
    rows=_users,
    from_state=True,
    opened=user_by_name,
)

TABLES = (
    USERS,
    Table(
        name="history",
        columns={
            "stream_id": "uuid",
            "tie_break": "bytea",
            "position": "bigint",
            "kind": "smallint",
            "occurred_at": "timestamptz",
            "recorded_at": "timestamptz",
            "late": "boolean",
            "lifecycle_before": "smallint",
            "lifecycle_after": "smallint",
            "sealed": "bytea",
        },
        key=("occurred_at", "position"),
        rows=_history,
        opened=entry_by_name,
    ),
    Table(
        name="terms",
        columns={"stream_id": "uuid", "terms": "uuid[]", "former": "uuid[]", "until": "date[]"},
        key=(),
        rows=_terms,
        replaced=("terms",),
        added=("former", "until"),
    ),
)
