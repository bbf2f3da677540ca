"""What the code says in its log (structlog), to be waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from structlog.typing import EventDict


class Lines:
    """A processor of structlog that keeps each line and lets none through."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[EventDict] = asyncio.Queue()

    def __call__(self, _logger: object, _method: str, line: EventDict) -> EventDict:
        self._queue.put_nowait(dict(line))
        raise structlog.DropEvent

    async def until(self, event: str) -> EventDict:
        """Wait for a line."""
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._queue.get())["event"] != event:
                pass
        return line

    def all(self) -> list[str]:
        """Take what has been logged since."""
        return [self._queue.get_nowait()["event"] for _ in range(self._queue.qsize())]
