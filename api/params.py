"""Parameters of a request: each read with its own rule, all mistakes reported at once."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from api.problems import ParameterError, bad_parameters
from eventstore.events import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")
_MILLISECONDS_DIGITS_MAX = 15
_TEXT_CHARACTERS_MAX = 500
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAYS = 30


def moment(text: str) -> datetime:
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


def first_day(last: date, days_max: int, text: str) -> date:
    """Read the first of some days; ValueError if the last is before it, or they are too many."""
    first = day(text)
    if first > last:
        raise ValueError(f"after the last day, {last}")
    if (last - first).days >= days_max:
        raise ValueError(f"at most {days_max} days at once; the last one is {last}")
    return first


def days_before(last: date) -> date:
    """Return the first of the 30 days that end with one: what is shown if nobody says."""
    return date.fromordinal(max(1, last.toordinal() - _DAYS + 1))


def number(least: int, most: int) -> Callable[[str], int]:
    """Make a rule for whole numbers."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
            raise ValueError(f"not a whole number from {least} to {most}")
        if not least <= int(text) <= most:
            raise ValueError(f"not from {least} to {most}")
        return int(text)

    return read


def position(partitions: int, text: str) -> Position:
    """Read a position in a log of so many partitions."""
    found = Position.parse(text)
    if found.partition >= partitions:
        raise ValueError(f"this log has {partitions} partitions, the first is 0")
    return found


def text(given: str) -> str:
    """Read a text to look for."""
    if not given.strip() or len(given) > _TEXT_CHARACTERS_MAX:
        raise ValueError(f"not a text of 1 to {_TEXT_CHARACTERS_MAX} characters")
    return given


def one_of(*words: str) -> Callable[[str], str]:
    """Make a rule for a choice."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read


class Params:
    """Collects what is wrong while a handler takes its parameters, then says it all."""

    def __init__(self, query: Mapping[str, str]) -> None:
        """Take the query; what nobody asks for until `done` is an error."""
        self._query = dict(query)
        self._known: list[str] = []
        self._errors: list[ParameterError] = []

    def take(self, name: str, rule: Callable[[str], T]) -> T | None:
        """Return a parameter, None if it is not given or wrong."""
        self._known.append(name)
        text = self._query.pop(name, None)
        return None if text is None else self.check(name, text, rule)

    def check(self, name: str, text: str, rule: Callable[[str], T]) -> T | None:
        """Return what stands elsewhere, such as in a header, None if it is wrong."""
        try:
            return rule(text)
        except ValueError as error:
            self.refuse(name, str(error))
            return None

    def refuse(self, name: str, problem: str) -> None:
        """Note what is wrong with a parameter."""
        self._errors.append(ParameterError(name, problem))

    def done(self) -> None:
        """Raise a problem that names every wrong or unknown parameter."""
        known = ", ".join(self._known) or "none"
        for name in self._query:
            shown = name if name.isidentifier() and len(name) <= 40 else "a parameter"  # noqa: PLR2004
            self._errors.append(ParameterError(shown, f"unknown; known here: {known}"))
        if self._errors:
            raise bad_parameters(self._errors)
