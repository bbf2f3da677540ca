"""Times and days as people and programs write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")
_MILLISECONDS_DIGITS_MAX = 15
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAYS = 30


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


def parse_day(text: str) -> date:
    """Read a day, YYYY-MM-DD; ValueError for anything else."""
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("not a day; like 2023-06-13")


def today() -> date:
    """Return the present day in UTC."""
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
