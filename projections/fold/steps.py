"""Work in small steps, which may be done at once or a few at a time. Pure.

Folding is Python's own work, and a user may have thousands of events: whoever does it where
requests are answered as well takes turns with them (`turns`), everybody else does it at once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]


def at_once(steps: Steps[T]) -> T:
    """Do all steps; return what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
