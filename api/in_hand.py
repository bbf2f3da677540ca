"""The requests in hand: how many there may be, and that a service that stops answers them first.

aiohttp alone would not: once it is told to stop it takes no more of a body that is being received.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from api.problems import Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

_RETRY_AFTER_S = 1


class InHand:
    """Counts requests, refuses those that are too many, and waits for the last one."""

    def __init__(self, requests_max: int, body_bytes_max: int) -> None:
        """`body_bytes_max` is for the bodies of all requests in hand together."""
        self._requests_max = requests_max
        self._body_bytes_max = body_bytes_max
        self._body_bytes = 0
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    @web.middleware
    async def counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Count a request; once the service stops, it is its connection's last."""
        if self._count >= self._requests_max and not request.path.startswith("/health/"):
            raise _too_much()
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

    @contextlib.contextmanager
    def room(self, body_bytes: int) -> Generator[None]:
        """Keep room in memory for a body while the block lasts; 503 if there is none."""
        if self._body_bytes and self._body_bytes + body_bytes > self._body_bytes_max:
            raise _too_much()
        self._body_bytes += body_bytes
        try:
            yield
        finally:
            self._body_bytes -= body_bytes

    async def drain(self, timeout_s: float) -> None:
        """Wait until none is left, but not for longer than that."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


def _too_much() -> Problem:
    return unavailable("too much is in hand already; send it again", _RETRY_AFTER_S)


IN_HAND = web.AppKey("in_hand", InHand)
