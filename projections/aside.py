"""Work on many rows, out of the way of those who wait for an answer.

Folding is Python's own work: done where requests are answered, a user with thousands of events
would hold up everybody for a second. A thread shares the processor with them instead.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_ROWS_AT_ONCE = 20
_threads = ThreadPoolExecutor(1, thread_name_prefix="fold")


async def aside(rows: int, work: Callable[[], T]) -> T:
    """Do work on so many rows and return what it returns; if they are many, in a thread."""
    if rows <= _ROWS_AT_ONCE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
