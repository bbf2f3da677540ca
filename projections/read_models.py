"""The read models: the rows that a folded user has in each. No I/O.

To add one: a table in schema.sql that is partitioned by generation, a function here from a folded
user to its rows, and an entry in TABLES. Projector, rebuild, proof and erasure need nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from projections.fold.search_keys import FIELDS, terms_of
from projections.fold.state import encode_fields
from projections.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from projections.fold.folder import Folded
    from projections.tables import Row

_encode = msgspec.json.Encoder(order="sorted").encode


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


USERS = Table(
    name="users",
    columns={
        "stream_id": "uuid",
        "application_id": "text",
        "user_id": "text",
        "company_id": "bigint",
        "lifecycle": "text",
        "state": "text",
        "since": "text",
        "order_key": "bytea",
        "position": "bigint",
        "kind": "smallint",
        "occurred_at": "timestamptz",
        "recorded_at": "timestamptz",
    },
    key=(),
    rows=_users,
)

TABLES = (
    USERS,
    Table(
        name="history",
        columns={
            "stream_id": "uuid",
            "order_key": "bytea",
            "position": "bigint",
            "kind": "smallint",
            "occurred_at": "timestamptz",
            "recorded_at": "timestamptz",
            "stated_at": "timestamptz",
            "late": "boolean",
            "summary": "text",
            "changes": "text",
        },
        key=("order_key", "position"),
        rows=_history,
    ),
    Table(
        name="activity",
        columns={
            "stream_id": "uuid",
            "application_id": "text",
            "day": "date",
            "created": "integer",
            "deleted": "integer",
            "blocked": "integer",
            "active": "integer",
        },
        key=("day",),
        rows=_activity,
        added=("created", "deleted", "blocked", "active"),
    ),
    Table(
        name="terms",
        columns={"stream_id": "uuid", "term": "bytea"},
        key=("term",),
        rows=_terms,
        replaced=_terms_change,
    ),
)
