"""Requests in flight: counted, so that a service that stops can wait for the last one.

aiohttp alone would not wait: once it stops it takes no more of a body that is being received.
"""

from __future__ import annotations

import asyncio
import contextlib


class Inflight:
    """Counts requests, and waits for the last one."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False

    def enter(self) -> None:
        """Count a request."""
        self._count += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count it no longer."""
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Wait until none is left, but not for longer than that."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
