"""Parameters of requests: what each rule takes, and what it says otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from multidict import MultiDict

from api.web.params import Parameter, Params
from api.web.problems import Problem
from api.web.rules import TIME, number, one_of, parse_time
from tests.support.deliveries import AT, AT_MS, short

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    "text",
    [
        "2023-06-13T09:48:47.621Z",
        "2023-06-13T09:48:47.621+00:00",
        "2023-06-13T15:18:47.621+05:30",
        "2023-06-13T15:18:47.621 05:30",
        "2023-06-13 15:18:47.621+05:30",
        "2023-06-13T04:18:47.621-05:30",
        str(AT_MS),
    ],
)
def test_moments(text: str) -> None:
    """RFC 3339 with any offset, even one whose plus sign a URL has eaten, or milliseconds."""
    assert parse_time(text) == AT
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


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("100", 100), ("007", 7)])
def test_numbers(text: str, expected: int) -> None:
    """A whole number between both limits, each included."""
    assert number(1, 100).read(text) == expected


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
        number(1, 100).read(text)


def test_choices() -> None:
    """A choice is one of the words, exactly; else they are all named."""
    rule = one_of(("asc", "desc"))
    assert rule.read("desc") == "desc"
    for text in ("", "ASC", "asc,desc"):
        with pytest.raises(ValueError, match=r"^one of asc, desc$"):
            rule.read(text)


LIMIT: Parameter[int] = Parameter("limit", number(1, 9), "how many", 5)
ORDER: Parameter[str] = Parameter("order", one_of(("asc", "desc")), "which way", "asc")
SINCE: Parameter[datetime | None] = Parameter("since", TIME, "how long ago", None)
LAST = Parameter("Last-Seen", number(0, 9), "the last", 0, location="header")
KNOWN: Sequence[Parameter[Any]] = (LIMIT, ORDER, SINCE, LAST)


def problems(
    *query: tuple[str, str], known: Sequence[Parameter[Any]] = KNOWN, last: str = "0"
) -> dict[str, str]:
    """Return what is wrong with a request."""
    with pytest.raises(Problem) as raised:
        Params(known, MultiDict(query), {"Last-Seen": last})
    assert raised.value.document.status == 400
    return {error.parameter: error.detail for error in raised.value.document.errors}


def test_good_parameters() -> None:
    """Parameters come converted, those not given as their default."""
    found = Params(KNOWN, MultiDict({"limit": "7"}), {"Last-Seen": "3"})
    assert (found[LIMIT], found[LAST]) == (7, 3)
    assert (found[ORDER], found[SINCE]) == ("asc", None)


def test_every_mistake_is_reported_at_once() -> None:
    """All wrong and unknown parameters are named in one answer, with the known ones."""
    query = (("limit", "0"), ("order", "up"), ("since", "now"), ("limits", "1"))
    assert problems(*query, last="x") == {
        "limit": "not from 1 to 9",
        "order": "one of asc, desc",
        "since": "not a time; like 2023-06-13T09:48:47.621Z, or milliseconds",
        "Last-Seen": "not a whole number from 0 to 9",
        "limits": "unknown; known here: limit, order, since",
    }


def test_a_parameter_is_given_once() -> None:
    """Of two values none is taken, not even of equal ones."""
    query = (("limit", "1"), ("limit", "1"), ("order", "asc"), ("x", "1"), ("x", "2"))
    assert problems(*query) == {
        "limit": "given more than once",
        "x": "unknown; known here: limit, order, since",
    }


def test_unknown_where_nothing_is_known() -> None:
    """Where there are no parameters, each is unknown, unless nobody minds."""
    assert problems(("limit", "1"), known=()) == {"limit": "unknown; known here: none"}
    Params((), MultiDict(limit="1"), {}, strict=False)


@pytest.mark.parametrize("name", ["salman@example.com", "a b", "", "x" * 41, "<script>"])
def test_an_unlikely_name_is_not_repeated(name: str) -> None:
    """A name that looks like data or markup is not echoed."""
    assert problems((name, "1"), known=()) == {"a parameter": "unknown; known here: none"}
