"""Long work, a few milliseconds at a time, so that whoever waits for an answer gets a turn.

Not in a thread: a thread that computes takes the interpreter from the one that answers for 5 ms at
each of its system calls, which left it a tenth of its answers a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from projections.steps import Steps

T = TypeVar("T")

_TURN_S = 0.002
_IDLE_S = 0.0002
_OTHERS_TURNS = 2
"""While others have something to do, they get so much more of the time."""


async def in_turns(steps: Steps[T]) -> T:
    """Do all steps; return what they come to."""
    until = time.perf_counter() + _TURN_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        now = time.perf_counter()
        if now > until:
            await asyncio.sleep(0)
            if time.perf_counter() - now > _IDLE_S:
                await asyncio.sleep(_OTHERS_TURNS * _TURN_S)
            until = time.perf_counter() + _TURN_S
