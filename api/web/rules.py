"""Rules: how the text of a parameter is read, and what JSON schema says of the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec

from eventstore.events import Position
from projections.query import search, users

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Schema: TypeAlias = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")
_MILLISECONDS_DIGITS_MAX = 15
_TEXT_CHARACTERS_MAX = 500
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAYS = 30


class Rule(msgspec.Struct, Generic[T_co], frozen=True):
    """`read` returns what a text means, or raises a ValueError that says what is wrong with it.

    It takes everything that fits the `schema`, and may take more.
    """

    read: Callable[[str], T_co]
    schema: Schema


def parse_time(text: str) -> datetime:
    """Read RFC 3339 with any offset, or epoch milliseconds; ValueError says what is wrong."""
    if text.isascii() and text.isdecimal():
        if len(text) > _MILLISECONDS_DIGITS_MAX:
            raise ValueError("too many digits for epoch milliseconds")
        try:
            return _EPOCH + timedelta(milliseconds=int(text))
        except OverflowError:
            raise ValueError("later than the year 9999") from None
    try:
        found = datetime.fromisoformat(_LOST_PLUS.sub("+", text))
    except ValueError:
        raise ValueError("not a time; like 2023-06-13T09:48:47.621Z, or milliseconds") from None
    if found.tzinfo is None:
        raise ValueError("a time without an offset; add Z for UTC, or an offset like +05:30")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None


def day(text: str) -> date:
    """Read a day, YYYY-MM-DD; ValueError for anything else."""
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("not a day; like 2023-06-13")


def today() -> date:
    """Return the day that it is in UTC."""
    return datetime.now(UTC).date()


def first_day(first: date | None, last: date, days_max: int) -> date:
    """Return the first of the days to show: the one asked for, or the last's 29th before it.

    ValueError if the last one is before it, or they are too many.
    """
    if first is None:
        return date.fromordinal(max(1, last.toordinal() - min(_DAYS, days_max) + 1))
    if first > last:
        raise ValueError(f"after the last day, {last}")
    if (last - first).days >= days_max:
        raise ValueError(f"at most {days_max} days at once; the last one is {last}")
    return first


def text(given: str) -> str:
    """Read a text to look for."""
    if not given.strip() or len(given) > _TEXT_CHARACTERS_MAX:
        raise ValueError(f"not a text of 1 to {_TEXT_CHARACTERS_MAX} characters")
    return given


def number(least: int, most: int) -> Rule[int]:
    """Make a rule for whole numbers."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
            raise ValueError(f"not a whole number from {least} to {most}")
        if not least <= int(text) <= most:
            raise ValueError(f"not from {least} to {most}")
        return int(text)

    return Rule(read, {"type": "integer", "minimum": least, "maximum": most})


def one_of(words: Sequence[T]) -> Rule[T]:
    """Make a rule for a choice."""

    def read(text: str) -> T:
        for word in words:
            if word == text:
                return word
        raise ValueError(f"one of {', '.join(map(str, words))}")

    return Rule(read, {"type": "string", "enum": list(words)})


def position(partitions: int) -> Rule[Position]:
    """Make a rule for positions in a log of so many partitions."""

    def read(text: str) -> Position:
        found = Position.parse(text)
        if found.partition >= partitions:
            raise ValueError(f"this log has {partitions} partitions, the first is 0")
        return found

    first = "0" if partitions == 1 else f"({'|'.join(map(str, range(partitions)))})"
    return Rule(read, {"type": "string", "pattern": f"^{first}:(0|[1-9][0-9]{{0,17}})$"})


TIME = Rule(
    parse_time,
    {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": 0, "maximum": 253_402_300_799_999},
        ]
    },
)
ID = Rule(str, {"type": "string", "minLength": 1})
DAY = Rule(day, {"type": "string", "format": "date"})
TEXT = Rule(text, {"type": "string", "pattern": r"\S", "maxLength": _TEXT_CHARACTERS_MAX})
HISTORY_PAGE_KEY = Rule(users.parse_page_key, {"type": "string", "pattern": "^[0-9a-f]{83,97}$"})
SEARCH_PAGE_KEY = Rule(
    search.parse_page_key,
    {"type": "string", "pattern": "^(-[0-9]{1,13}|[0-9]{1,14})-[0-9a-f]{32}$"},
)
