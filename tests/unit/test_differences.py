"""Differences between rows, and the parts of the users that are looked at."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from projections.prove.differences import Difference, Differences, compare
from projections.prove.ranges import split
from projections.read_models import TABLES

if TYPE_CHECKING:
    from projections.tables import Table

ID = uuid.UUID(int=7)
USERS, HISTORY, ACTIVITY, _ = TABLES


def _row(table: Table, **given: Any) -> tuple[Any, ...]:
    return tuple({"stream_id": ID, **given}.get(name) for name in table.columns)


def _found(table: Table, right: list[Any], stored: list[Any]) -> list[tuple[Any, ...]]:
    return [(d.what, d.at, d.position, *d.fields) for d in compare(table, 3, right, stored)]


@pytest.mark.parametrize(
    ("ours", "theirs", "fields"),
    [
        ('{"a":1,"b":2}', '{"a":1,"b":3}', ["state.b"]),
        ('{"a":1}', '{"a":1,"b":null}', ["state.b"]),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', ["state"]),
        ('{"a":1}', '{"a":true}', ["state"]),
        ('{"a":1}', "[1]", ["state.a"]),
        ('{"a":1}', "no JSON", ["state.a"]),
        ("{}", "{}", []),
    ],
)
def test_names_in_a_state(ours: str, theirs: str, fields: list[str]) -> None:
    """Of a state that differs the names of its fields are told; of its text alone, the column's."""
    right, stored = _row(USERS, state=ours, position=5), _row(USERS, state=theirs, position=6)
    wanted = [("differs", None, 5, *fields, "position")]
    assert _found(USERS, [right], [stored]) == wanted


def test_rows_are_told_apart() -> None:
    """Entries are matched by their place, days by their date; what one side lacks is named."""
    first = _row(HISTORY, order_key=b"1", position=1, late=False)
    second = _row(HISTORY, order_key=b"2", position=2, late=False)
    wrong = _row(HISTORY, order_key=b"2", position=2, late=True)
    assert _found(HISTORY, [first, second], [wrong]) == [
        ("missing", "3:1", 1),
        ("differs", "3:2", 2, "late"),
    ]
    assert _found(HISTORY, [], [first]) == [("surplus", "3:1", 1)]
    assert _found(HISTORY, [first, second], [first, second]) == []
    assert _found(ACTIVITY, [_row(ACTIVITY, day="2020-01-01")], []) == [
        ("missing", "2020-01-01", None)
    ]


def test_only_the_first_are_kept() -> None:
    """However much differs, no more than the first differences are kept; all are counted."""
    (one,) = compare(USERS, 0, [_row(USERS, state="{}")], [])
    found, others = Differences(), Differences()
    found.add([one] * 700)
    others.add([one] * 1_500)
    found.join(others)
    assert (found.differing, len(found.first), len(others.first)) == (2_200, 1_000, 1_000)
    assert isinstance(one, Difference)
    assert Differences().first == []


@pytest.mark.parametrize("count", [1, 3, 256, 1000])
def test_ranges_cover_everybody_once(count: int) -> None:
    """Ranges follow on each other without gap from the first id to the last."""
    ranges = split(2, count)
    assert (len(ranges), ranges[0].first.int, ranges[-1].last.int) == (count, 0, 2**128 - 1)
    for one, other in pairwise(ranges):
        assert other.first.int == one.last.int + 1
    widths = {r.last.int - r.first.int for r in ranges}
    assert max(widths) - min(widths) <= 1
