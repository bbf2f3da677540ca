"""Parameters of requests: what each kind takes, and what it answers otherwise."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta
from multidict import MultiDict

from api.web.params import (
    DAY,
    PARTITION,
    POSITION,
    TIME,
    Bounds,
    Limit,
    Parameters,
    Reader,
    Text,
    number,
)
from api.web.problems import Problem
from api.web.times import parse_time
from eventstore.events import Position
from tests.support.deliveries import T0, T0_MS
from tests.support.parameters import short


@pytest.mark.parametrize(
    "text",
    [
        "2023-06-13T09:48:47.621Z",
        "2023-06-13T09:48:47.621+00:00",
        "2023-06-13T15:18:47.621+05:30",
        "2023-06-13T15:18:47.621 05:30",
        "2023-06-13 15:18:47.621+05:30",
        "2023-06-13T04:18:47.621-05:30",
        str(T0_MS),
    ],
)
def test_moments(text: str) -> None:
    """RFC 3339 with any offset, even one whose plus sign a URL has eaten, or milliseconds."""
    assert parse_time(text) == T0
    assert parse_time(text).tzinfo is UTC


def test_small_numbers_are_milliseconds() -> None:
    """A number is milliseconds however small, unlike in a delivery."""
    assert parse_time("1000") == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2023-06-13T09:48:47", "a time without an offset; add Z for UTC, or an offset"),
        ("2023-06-13", "a time without an offset"),
        ("2023-06-13 05:30", "a time without an offset"),
        ("", "not a time; like 2023-06-13T09:48:47.621Z, or milliseconds"),
        ("yesterday", "not a time"),
        ("2023-02-30T00:00:00Z", "not a time"),
        ("-1", "not a time"),
        ("1.5", "not a time"),
        ("\u0661", "not a time"),
        ("1" * 16, "too many digits for epoch milliseconds"),
        ("1" * 5000, "too many digits for epoch milliseconds"),
        ("9" * 15, "later than the year 9999"),
        ("0001-01-01T00:00:00+05:00", "out of range"),
        ("9999-12-31T23:59:59-05:00", "out of range"),
    ],
    ids=short,
)
def test_no_moment(text: str, problem: str) -> None:
    """What is no moment is refused with what to do instead."""
    with pytest.raises(ValueError, match=f"^{problem}"):
        parse_time(text)


BOUNDS = Bounds(partitions=2, page_rows_max=9)


class Known(Parameters, frozen=True):
    """A parameter of each type."""

    limit: Limit = 0
    order: Annotated[Literal["asc", "desc"], Meta(description="which way")] = "asc"
    since: Annotated[datetime | None, TIME, Meta(description="how long ago")] = None
    day: Annotated[date | None, DAY, Meta(description="which day")] = None
    name: Annotated[Text | None, Meta(description="which name")] = None
    life: Annotated[Literal["long", "short"] | None, Meta(description="how long")] = None
    after: Annotated[Position | None, POSITION, Meta(description="from where")] = None
    partition: Annotated[int | None, PARTITION, Meta(description="which part")] = None
    last: Annotated[int, Meta(ge=0, le=9, description="the last", extra={"location": "header"})] = (
        msgspec.field(default=0, name="Last-Seen")
    )


READER = Reader(Known, BOUNDS)
NAMES = "limit, order, since, day, name, life, after, partition"


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("100", 100), ("007", 7)])
def test_numbers(text: str, expected: int) -> None:
    """A whole number between both limits, each included."""
    assert number(1, 100).read(text, BOUNDS) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0", "not from 1 to 100"),
        ("101", "not from 1 to 100"),
        *((text, "not a whole number from 1 to 100") for text in ("", "-1", "+1", "1.0", "1e1")),
        *(
            (text, "not a whole number from 1 to 100")
            for text in (" 1", "\u0661", "\u00b2", "0001")
        ),
    ],
)
def test_no_number(text: str, problem: str) -> None:
    """What is no such number is refused with both limits."""
    with pytest.raises(ValueError, match=f"^{problem}$"):
        number(1, 100).read(text, BOUNDS)


def read(*query: tuple[str, str], last: str = "0") -> Known:
    """Read a request's parameters."""
    return READER.read(MultiDict(query), {"Last-Seen": last})


def problems(*query: tuple[str, str], last: str = "0", reader: Any = READER) -> dict[str, str]:
    """Return what is wrong with a request."""
    with pytest.raises(Problem) as raised:
        reader.read(MultiDict(query), {"Last-Seen": last})
    assert raised.value.document.status == 400
    return {error.parameter: error.detail for error in raised.value.document.errors}


def test_choices() -> None:
    """A choice is one of the words, exactly; else they are all named."""
    assert read(("order", "desc"), ("life", "long")) == Known(limit=9, order="desc", life="long")
    for text in ("", "ASC", "asc,desc"):
        assert problems(("order", text)) == {"order": "one of asc, desc"}
    assert problems(("life", "")) == {"life": "one of long, short"}


def test_good_parameters() -> None:
    """Parameters come converted, those not given as their default."""
    given = (("limit", "7"), ("since", str(T0_MS)), ("day", "2023-06-13"), ("name", " a "))
    found = read(*given, ("after", "1:42"), ("partition", "1"), last="3")
    assert found == Known(
        limit=7,
        since=T0,
        day=date(2023, 6, 13),
        name=" a ",
        after=Position(1, 42),
        partition=1,
        last=3,
    )
    assert read() == Known(limit=9)
    assert Reader(Known, Bounds(1, 1_000)).read(MultiDict(), {}) == Known(limit=100)


def test_every_mistake_is_reported_at_once() -> None:
    """All wrong and unknown parameters are named in one answer, with the known names."""
    wrong = {
        "limit": ("0", "not from 1 to 9"),
        "order": ("up", "one of asc, desc"),
        "since": ("now", "not a time; like 2023-06-13T09:48:47.621Z, or milliseconds"),
        "day": ("13.6.", "not a day; like 2023-06-13"),
        "name": (" ", "not a text of 1 to 500 characters"),
        "after": ("2:1", "this log has 2 partitions, the first is 0"),
        "partition": ("2", "not from 0 to 1"),
        "limits": ("1", f"unknown; known here: {NAMES}"),
    }
    expected = {name: detail for name, (_, detail) in wrong.items()}
    expected["Last-Seen"] = "not a whole number from 0 to 9"
    assert problems(*((name, text) for name, (text, _) in wrong.items()), last="x") == expected
    assert problems(("after", "42")) == {
        "after": "a position looks like 0:42, partition and number with a colon between"
    }
    assert problems(("name", "x" * 501)) == {"name": "not a text of 1 to 500 characters"}


def test_a_parameter_is_given_once() -> None:
    """Of two values none is taken, not even of equal ones."""
    query = (("limit", "1"), ("limit", "1"), ("order", "asc"), ("x", "1"), ("x", "2"))
    assert problems(*query) == {
        "limit": "given more than once",
        "x": f"unknown; known here: {NAMES}",
    }


def test_unknown_where_nothing_is_known() -> None:
    """Where there are no parameters, each is unknown, unless more are allowed."""
    none = Reader(Parameters, BOUNDS)
    assert problems(("limit", "1"), reader=none) == {"limit": "unknown; known here: none"}
    assert Reader(Parameters, BOUNDS, strict=False).read(MultiDict(limit="1"), {}) == Parameters()


@pytest.mark.parametrize("name", ["salman@example.com", "a b", "", "x" * 41, "<script>"])
def test_an_unlikely_name_is_not_repeated(name: str) -> None:
    """A name that looks like data or markup is not echoed."""
    none = Reader(Parameters, BOUNDS)
    assert problems((name, "1"), reader=none) == {"a parameter": "unknown; known here: none"}


def test_a_type_that_no_text_can_be() -> None:
    """A parameter of a type that is not read is a mistake found when the service starts."""

    class Unreadable(Parameters, frozen=True):
        what: Annotated[list[int] | None, Meta(description="numbers")] = None

    with pytest.raises(TypeError, match="a parameter can't be"):
        Reader(Unreadable, BOUNDS)
