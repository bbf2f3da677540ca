"""Work that many may ask for at once, without a token, done once for all of them.

It is not begun again before a pause is over, so it costs the same however often it is asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

PAUSE_S = 0.2


class SingleFlight(Generic[T]):
    """Does one kind of work, one at a time."""

    def __init__(
        self, work: Callable[[], Coroutine[object, object, T]], pause_s: float = PAUSE_S
    ) -> None:
        """`pause_s` is between the beginnings of two."""
        self._work = work
        self._pause_s = pause_s
        self._began = -float("inf")
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Return the result of work that began after this was called, or raise what it raised."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin(self._running), name="single flight")
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _begin(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._began + self._pause_s - loop.time())
        self._running, self._next = self._next, None
        self._began = loop.time()
        return await self._work()

    async def close(self) -> None:
        """Break off what is going on."""
        tasks = [task for task in (self._next, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _seen(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # those who waited have it, if any still did
