"""The values in a delivery, however they were written: ids, times, users. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

import msgspec

TOO_DEEP = "nested too deeply"
# A number below is epoch seconds (until the year 5138), one above epoch milliseconds.
_SECONDS_BELOW = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_CHARACTERS_MAX = 200
_NUMBERS = 10**18


class UnreadableError(Exception):
    """A delivery, or an entry of it, that can't be read.

    `reason` is one of a few fixed words, `detail` names what and where in a sentence that quotes
    nothing of the content.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class UserEntry(msgspec.Struct, frozen=True):
    """One user of a delivery: what stands below `user`, and beside it."""

    user: dict[str, Any]
    beside: dict[str, Any]

    def identifier(self, *names: str) -> str | None:
        """Return the first of these fields that holds an id: a short string or a number."""
        for name in names:
            found = identifier(self.user.get(name))
            if found is not None:
                return found
        return None

    def time(self) -> datetime | None:
        """Return when the user was last changed, by their own fields."""
        for name in ("updated_at", "updatedAt", "created_at", "createdAt"):
            found = read_time(self.user.get(name))
            if found is not None:
                return found
        return None


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Say whether a decoded JSON value is a list."""
    return isinstance(value, list)


def identifier(value: object) -> str | None:
    """Return an id as text: a string as it is, a whole number in decimal, else None."""
    text = str(value) if type(value) is int else value  # True is no id
    if isinstance(text, str) and 0 < len(text) <= _ID_CHARACTERS_MAX and "\0" not in text:
        return text
    return None


def only_identifier(*values: object) -> str | None:
    """Return the first id; of a list only if it is the list's one member: none can be chosen."""
    for value in values:
        if is_list(value):
            value = value[0] if len(value) == 1 else None  # noqa: PLW2901 - its only member
        if found := identifier(value):
            return found
    return None


def read_number(value: object) -> int | None:
    """Return a whole number, which may be written as text, else None."""
    if type(value) is int and 0 <= value < _NUMBERS:
        return value
    found = identifier(value)
    if found is None or not found.isdecimal() or len(found) > 18:  # noqa: PLR2004 - fits 64 bits
        return None
    return int(found)


def read_time(value: object) -> datetime | None:
    """Read a time: epoch milliseconds or seconds, as number or text, or ISO 8601, else None.

    In UTC, cut to the millisecond. ISO without an offset counts as UTC, as the platform means it.
    """
    if isinstance(value, str):
        if not value.isdecimal():
            return _iso(value)
        value = int(value) if len(value) <= 18 else None  # noqa: PLR2004 - fits 64 bits
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    milliseconds = value * 1000 if abs(value) < _SECONDS_BELOW else value
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds))
    except (OverflowError, ValueError):  # infinity, NaN
        return None


def _iso(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not UTC:
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    beyond = found.microsecond % 1000
    return found.replace(microsecond=found.microsecond - beyond) if beyond else found
