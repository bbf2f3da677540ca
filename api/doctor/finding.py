"""What a report is made of: one line for each thing that was looked at."""

from __future__ import annotations

from enum import StrEnum

import msgspec

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class State(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, how it is, what was seen, and what to do; that is empty if nothing."""

    about: str
    state: State
    found: str
    todo: str = ""


def ok(about: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(about, State.OK, found)


def warning(about: str, found: str, todo: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(about, State.WARNING, found, todo)


def broken(about: str, found: str, todo: str) -> Finding:
    """It does not work, or answers may be wrong."""
    return Finding(about, State.BROKEN, found, todo)


def span(seconds: float) -> str:
    """Write a time span as people do: its largest unit."""
    for size, unit in _UNITS:
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return "less than a second"


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number of things as people do; `many` where an s at the end is not enough."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def amount(size: float) -> str:
    """Write a number of bytes as people do."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
