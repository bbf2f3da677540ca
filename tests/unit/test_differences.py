"""Differences between rows, and the parts of the users that are looked at."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.sealing import columns
from eventstore.sealing.columns import ColumnKey, place_of
from projections.fold.events import order_key_of
from projections.prove.differences import Difference, Differences, compare
from projections.prove.ranges import split
from projections.read_models import TABLES
from tests.support.deliveries import T0

if TYPE_CHECKING:
    from projections.tables import Table

ID = uuid.UUID(int=7)
KEY = ColumnKey(bytes(32))
PLACE = {"occurred_at": T0, "kind": 2, "tie_break": b"k", "position": 5}
USERS, HISTORY, TERMS = TABLES


def _row(table: Table, **given: Any) -> tuple[Any, ...]:
    return tuple({"stream_id": ID, **given}.get(name) for name in table.columns)


def _user(text: str, **given: Any) -> tuple[Any, ...]:
    """Return a row of users with something sealed."""
    place = place_of("users", ID, order_key_of(T0, 2, b"k"), 5)
    sealed = KEY.seal(f"[7,{{}},{text}]".encode(), place)
    return _row(USERS, **{**PLACE, "sealed": sealed, **given})


def _found(table: Table, right: list[Any], stored: list[Any]) -> list[tuple[Any, ...]]:
    return [(d.what, d.at, d.position, *d.fields) for d in compare(table, 3, right, stored, KEY)]


@pytest.mark.parametrize(
    ("ours", "theirs", "fields"),
    [
        ('{"a":1,"b":2}', '{"a":1,"b":3}', ["state.b"]),
        ('{"a":1}', '{"a":1,"b":null}', ["state.b"]),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', ["sealed"]),
        ('{"a":1}', '{"a":true}', ["state.a"]),
    ],
)
def test_names_in_a_state(ours: str, theirs: str, fields: list[str]) -> None:
    """Of a state that differs the fields are named; of its text alone, the column."""
    assert _found(USERS, [_user(ours)], [_user(theirs)]) == [("differs", None, 5, *fields)]


def test_what_is_equal_when_opened_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the compressor may write the same state in other bytes."""
    state = f'{{"names":{[str(n) for n in range(100)]}}}'.replace("'", '"')
    right = _user(state)
    monkeypatch.setattr(columns, "COMPRESSOR", columns.compressor(19))
    stored = _user(state)
    assert right != stored
    assert _found(USERS, [right], [stored]) == []


def test_a_sealed_row_that_does_not_open_differs() -> None:
    """Altered, moved to another row, or without a key to open it: it is named as it stands."""
    right = _user("{}")
    moved = _row(USERS, **PLACE, sealed=KEY.seal(b"[7,{},{}]", b"elsewhere"))
    assert _found(USERS, [right], [moved]) == [("differs", None, 5, "sealed")]
    other = _user('{"a":1}')
    (found,) = compare(USERS, 3, [right], [other], None)
    assert found.fields == ["sealed"]


def test_rows_are_told_apart() -> None:
    """Entries are matched by their place; what one side lacks is named."""
    first = _row(HISTORY, occurred_at=T0, position=1, late=False)
    second = _row(HISTORY, occurred_at=T0, position=2, late=False)
    wrong = _row(HISTORY, occurred_at=T0, position=2, late=True)
    assert _found(HISTORY, [first, second], [wrong]) == [
        ("missing", "3:1", 1),
        ("differs", "3:2", 2, "late"),
    ]
    assert _found(HISTORY, [], [first]) == [("surplus", "3:1", 1)]
    assert _found(HISTORY, [first, second], [first, second]) == []
    assert _found(TERMS, [_row(TERMS)], []) == [("missing", None, None)]


def test_only_the_first_are_kept() -> None:
    """However much differs, no more than the first differences are kept; all are counted."""
    (one,) = compare(USERS, 0, [_user("{}")], [], KEY)
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
