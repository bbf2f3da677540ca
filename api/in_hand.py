"""The requests in hand, so that a service that stops can answer them first.

aiohttp alone would not: once it is told to stop it takes no more of a body that is being received.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class InHand:
    """Counts requests, and waits for the last one."""

    def __init__(self) -> None:
        """None yet."""
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    @web.middleware
    async def counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Count a request; once the service stops, it is its connection's last."""
        self._count += 1
        self._idle.clear()
        try:
            response = await handler(request)
            if self._stopping:
                response.force_close()
            return response
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Wait until none is left, but not for longer than that."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


IN_HAND = web.AppKey("in_hand", InHand)
