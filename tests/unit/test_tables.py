"""What a folded user says in the tables of the read models."""

from __future__ import annotations

from datetime import date, time
from typing import Any

import pytest

from eventstore.events import Stream
from eventstore.sealing.columns import ColumnKey
from projections.fold.folder import Folded, RowKeys
from projections.fold.history import replay
from projections.fold.search_keys import SearchKey
from projections.numbers import added_by
from projections.read_models import TABLES
from tests.support.deliveries import APP, delivery
from tests.support.events import read

DAY_MS = 86_400_000
STREAM = Stream.of(APP, "u", 1)
KEYS = RowKeys(ColumnKey(bytes(32)), SearchKey(bytes(32)))


def days(*steps: tuple[int, str, dict[str, Any]]) -> dict[int, tuple[int, ...]]:
    """Return (created, deleted, blocked, reactivated, active) by day, of events on these days."""
    bodies = [
        delivery("u", kind, day * DAY_MS + n, event_id=n, **fields)
        for n, (day, kind, fields) in enumerate(steps)
    ]
    state, entries = replay(read(*bodies))
    found: dict[int, tuple[int, ...]] = {}
    added = added_by([Folded(STREAM, state, entries, whole=True)])
    for (application_id, quarter), numbers in added.items():
        assert (application_id, quarter.time()) == (APP, time(9, 45))
        found[(quarter.date() - date(2023, 6, 13)).days] = tuple(numbers[:-1])
    return {day: numbers for day, numbers in found.items() if any(numbers)}


BLOCK, UNBLOCK = {"active": False}, {"active": True}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(0, "create", {})], {0: (1, 0, 0, 0, 1)}),
        ([(0, "create", {}), (1, "update", {"gender": "x"})], {0: (1, 0, 0, 0, 1)}),
        ([(0, "create", {}), (0, "delete", {})], {0: (1, 1, 0, 0, 0)}),
        ([(0, "create", {}), (2, "delete", {})], {0: (1, 0, 0, 0, 1), 2: (0, 1, 0, 0, -1)}),
        ([(0, "create", BLOCK)], {0: (1, 0, 1, 0, 0)}),
        ([(0, "update", {}), (1, "update", BLOCK)], {0: (1, 0, 0, 0, 1), 1: (0, 0, 1, 0, -1)}),
        (
            [(0, "create", {}), (1, "update", BLOCK), (2, "update", UNBLOCK)],
            {0: (1, 0, 0, 0, 1), 1: (0, 0, 1, 0, -1), 2: (0, 0, 0, 1, 1)},
        ),
        (
            [(0, "create", {}), (1, "update", BLOCK), (1, "update", UNBLOCK)],
            {0: (1, 0, 0, 0, 1), 1: (0, 0, 1, 1, 0)},
        ),
        ([(0, "delete", {}), (1, "delete", {})], {0: (1, 1, 0, 0, 0)}),
        ([(0, "delete", {}), (1, "update", {})], {0: (1, 1, 0, 0, 0), 1: (0, 0, 0, 1, 1)}),
        ([(0, "delete", {}), (1, "update", BLOCK)], {0: (1, 1, 0, 0, 0), 1: (0, 0, 1, 0, 0)}),
        ([(0, "create", BLOCK), (1, "delete", {})], {0: (1, 0, 1, 0, 0), 1: (0, 1, 0, 0, 0)}),
    ],
)
def test_what_a_day_counts(
    steps: list[tuple[int, str, dict[str, Any]]], expected: dict[int, tuple[int, ...]]
) -> None:
    """Each step of a user's life counts once, on its day; what changes nothing counts nothing."""
    assert days(*steps) == expected


def test_columns_fit_rows() -> None:
    """Every table's rows have its columns."""
    state, entries = replay(read(delivery("u", "create", username="u")))
    for table in TABLES:
        rows = list(table.rows(Folded(STREAM, state, entries, whole=True, keys=KEYS)))
        assert rows or table.name not in ("users", "history", "terms")
        assert all(len(row) == len(table.columns) for row in rows)
