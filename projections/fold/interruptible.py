"""Work that can be interrupted: done at once, or a timeslice at a time. Pure.

Folding is Python's own work, and a user may have thousands of events. In a process that answers
requests it is done in timeslices (`timeslice`), elsewhere at once. Functions that return such
work are named in -ing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
# Yields wherever it may be interrupted, and returns its result.
Work: TypeAlias = Generator[None, None, T]


def run_at_once(work: Work[T]) -> T:
    """Do all of it; return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
