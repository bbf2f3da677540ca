"""Times as the platform writes them, and the delivery of one user."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from projections.deliveries.envelope import read_delivery, read_entry, read_single, split_payload
from projections.deliveries.values import UnreadableError, read_time
from tests.support.deliveries import CREATE, DELETE, T0, T0_MS, UPDATE, encoded, entry, envelope
from tests.support.parameters import short


@pytest.mark.parametrize(
    "value",
    [
        T0_MS,
        float(T0_MS),
        T0_MS / 1000,
        str(T0_MS),
        "2023-06-13T09:48:47.621Z",
        "2023-06-13T09:48:47.621",
        "2023-06-13T09:48:47.621999Z",
        "2023-06-13T15:18:47.621+05:30",
        "2023-06-13 09:48:47.621+00:00",
    ],
    ids=short,
)
def test_forms(value: Any) -> None:
    """Milliseconds, seconds and ISO 8601 are one moment, in UTC and cut to the millisecond."""
    assert read_time(value) == T0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1686649727, datetime(2023, 6, 13, 9, 48, 47, tzinfo=UTC)),
        ("1686649727", datetime(2023, 6, 13, 9, 48, 47, tzinfo=UTC)),
        (99_999_999_999, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (100_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (-100_000_000_000, datetime(1966, 10, 31, 14, 13, 20, tzinfo=UTC)),
        ("2023-06-13", datetime(2023, 6, 13, tzinfo=UTC)),
    ],
    ids=short,
)
def test_seconds_and_milliseconds(value: Any, expected: datetime) -> None:
    """A number below a hundred thousand million counts seconds, from there on milliseconds."""
    assert read_time(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, "", "soon", "1e12", [T0_MS], {}, b"1", "9" * 18, "9" * 5000),
        *(10**18, -(10**18), 10**400, 1e300, math.inf, -math.inf, math.nan),
        *("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "2023-02-30T00:00:00Z"),
    ],
    ids=short,
)
def test_no_moment(value: Any) -> None:
    """What is no time, or beyond the calendar, is none."""
    assert read_time(value) is None


ONE_USER: dict[str, Any] = {
    "usual": envelope([entry(first_name="A")]),
    "no time": envelope([entry()], created_timestamp=None),
    "an id": envelope([entry()], id="e1"),
    "one object": envelope(entry(first_name="A")),
    "more beside": envelope([{**entry(), "socialAccounts": [], "other": 1}]),
    "below data": {"data": envelope([entry()])},
    "below data, and more": {"data": envelope([entry()]), "payload": [entry()]},
    "meta": {**envelope([entry()]), "event": None, "meta": {"event": {"name": "user"}}},
    "ids as text": {**envelope([entry()]), "company_id": "7", "application_id": "a"},
    "create": msgspec.json.decode(CREATE),
    "update": msgspec.json.decode(UPDATE),
    "delete": msgspec.json.decode(DELETE),
}
NOT_ONE_USER: dict[str, Any] = {
    "unknown-envelope": {"payload": [entry()]},
    "no-user": envelope([{"user": None}]),
    "no-user: an entry": envelope([7]),
    "no-users": envelope("text"),
}


@pytest.mark.parametrize("name", ONE_USER)
def test_in_one_go(name: str) -> None:
    """A delivery of one user reads the same in one go and step by step."""
    body = encoded(ONE_USER[name])
    step = read_delivery(body)
    (raw,) = split_payload(step.payload)
    delivered, found = read_single(body)
    assert found == read_entry(raw)
    assert msgspec.structs.replace(delivered, payload=step.payload) == step


@pytest.mark.parametrize("reason", NOT_ONE_USER)
def test_not_in_one_go(reason: str) -> None:
    """What can't be read is refused for the same reason as step by step."""
    with pytest.raises(UnreadableError, match=reason):
        read_single(encoded(NOT_ONE_USER[reason]))
