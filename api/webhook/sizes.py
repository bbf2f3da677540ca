"""How much there is in JSON, counted before it is decoded. Pure.

Of JSON that is valid: it has been scanned before. What takes long can be interrupted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from projections.deliveries.values import TOO_DEEP, UnreadableError

if TYPE_CHECKING:
    from projections.fold.interruptible import Work

_DEPTH_MAX = 100
# Everything up to the next bracket that is not inside a string, and the bracket.
_TO_BRACKET = re.compile(
    rb'[^\[\]{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^\[\]{}"]*+)*+[\[\]{}]', re.DOTALL
)
_AT_ONCE = 500


def values_in(raw: bytes) -> int:
    """Return how many values there are at most: brackets and commas, those in texts too."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def has_more_values(raw: bytes, most: int) -> bool:
    """Say whether there are more values; what is shorter than that is not counted."""
    return len(raw) > most and values_in(raw) > most


def may_be_too_deep(raw: bytes) -> bool:
    """Say whether there are brackets enough for `not_too_deep` to look at them."""
    return raw.count(b"[") + raw.count(b"{") > _DEPTH_MAX


def not_too_deep(raw: bytes) -> Work[None]:
    """UnreadableError if JSON is nested deeper than every later reader can follow.

    Where the decoder itself gives up depends on its caller's stack: what it accepted here it
    might refuse elsewhere.
    """
    depth = 0
    for n, found in enumerate(_TO_BRACKET.finditer(raw), 1):
        depth += 1 if raw[found.end() - 1] in b"[{" else -1
        if depth > _DEPTH_MAX:
            raise UnreadableError("not-json", TOO_DEEP)
        if n % _AT_ONCE == 0:
            yield


def exceeding(
    payload: bytes, entries_max: int, values_max: int
) -> Work[Literal["entries", "values"] | None]:
    """Say whether a list has more entries, or one of them more values, than there may be.

    Where the answer is no, it may still be that of one entry; it is for `values_in` then. Commas in
    a text that is an entry itself count as entries: it is no user anyway.
    """
    if payload[:1] != b"[" or payload.count(b",") < min(entries_max, values_max):
        return None
    depth, entries, opened = 0, 1, 0
    for n, found in enumerate(_TO_BRACKET.finditer(payload), 1):
        if depth == 1:
            opened = 0
            entries += payload.count(b",", found.start(), found.end())
            if entries > entries_max:
                return "entries"
        opens = payload[found.end() - 1] in b"[{"
        depth += 1 if opens else -1
        opened += opens
        if opened > values_max:
            return "values"
        if n % _AT_ONCE == 0:
            yield
    return None
