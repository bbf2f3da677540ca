"""Long work, a few milliseconds at a time, so that whoever waits for an answer goes first.

Not in a thread: a thread that computes takes the interpreter from the one that answers for 5 ms at
each of its system calls, which left it a tenth of its answers a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from projections.fold.steps import Steps

T = TypeVar("T")

TURN_S = 0.002
_IDLE_S = 0.0002
_PATIENCE_S = 0.004
BACKGROUND_S = 0.005
"""The patience of what nobody waits for at the moment."""


class Turns:
    """Turns of one piece of work, which may be the steps of many."""

    def __init__(self, patience_s: float = _PATIENCE_S, rest_s: float = 0) -> None:
        """The first turn begins. The next ones do, however busy others are, after `patience_s`.

        Or, whether others have something to do or not, after `rest_s`.
        """
        self._patience_s = patience_s
        self._rest_s = rest_s
        self._until = time.perf_counter() + TURN_S

    async def do(self, steps: Steps[T]) -> T:
        """Do all steps; return what they come to."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: T = end.value
                return found
            if time.perf_counter() > self._until:
                await (asyncio.sleep(self._rest_s) if self._rest_s else self._give_way())
                self._until = time.perf_counter() + TURN_S

    async def _give_way(self) -> None:
        """Wait until a round of the loop had nothing to do for others."""
        now = began = time.perf_counter()
        while now - began < self._patience_s:
            before = now
            await asyncio.sleep(0)
            now = time.perf_counter()
            if now - before < _IDLE_S:
                break
