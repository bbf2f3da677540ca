"""Long work, a few milliseconds at a time, so that requests in the same process go first.

Not in a thread: a thread that computes takes the interpreter from the one that answers for 5 ms at
each of its system calls, which left it a fifth of its answers a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from projections.fold.interruptible import Work

T = TypeVar("T")

SLICE_S = 0.002
# The patience of work that no request waits for.
BACKGROUND_S = 0.005
_PATIENCE_S = 0.004
# A round of the event loop that took no longer had nothing to do for others.
_IDLE_S = 0.0002


class Timeslices:
    """The timeslices of one piece of work, which may consist of many."""

    def __init__(self, patience_s: float = _PATIENCE_S, rest_s: float = 0) -> None:
        """The first timeslice begins; the next begins when others are idle, or after `patience_s`.

        With `rest_s` it begins after that time, whether others are idle or not.
        """
        self._patience_s = patience_s
        self._rest_s = rest_s
        self._until = time.perf_counter() + SLICE_S

    async def run(self, work: Work[T]) -> T:
        """Do all of it; return its result."""
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            if time.perf_counter() > self._until:
                await (asyncio.sleep(self._rest_s) if self._rest_s else self._give_way())
                self._until = time.perf_counter() + SLICE_S

    async def _give_way(self) -> None:
        """Wait until a round of the loop had nothing to do for others."""
        now = began = time.perf_counter()
        while now - began < self._patience_s:
            before = now
            await asyncio.sleep(0)
            now = time.perf_counter()
            if now - before < _IDLE_S:
                break
