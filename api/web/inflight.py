"""Requests in flight: how many there may be, how large their bodies, and waiting for the last.

aiohttp alone would not wait: once it stops it takes no more of a body that is being received.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from api.web.problems import Problem, unavailable

_RETRY_AFTER_S = 1
_BYTES = web.RequestKey("body_bytes", int)


class Inflight:
    """Counts requests, refuses those that are too many, and waits for the last one."""

    def __init__(self, requests_max: int, body_bytes_max: int) -> None:
        """`body_bytes_max` is for the bodies of all requests in flight together."""
        self._requests_max = requests_max
        self._body_bytes_max = body_bytes_max
        self._body_bytes = 0
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False

    def enter(self, request: web.Request) -> None:
        """Count a request; Problem (503) if it is one too many, unless it asks for health.

        It is counted then too: `leave` follows in either case.
        """
        self._count += 1
        self._idle.clear()
        if self._count > self._requests_max and not request.path.startswith("/health/"):
            raise unavailable("too many requests in flight; send it again", _RETRY_AFTER_S)

    def leave(self, request: web.Request) -> None:
        """Count it no longer."""
        self._body_bytes -= request.get(_BYTES, 0)
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def read(self, request: web.Request) -> bytes:
        """Read a body; its bytes count until its request is answered.

        Bytes count when they have arrived: announcing many keeps no other request out.

        Raises:
            Problem: there is no room for more (503), it is too large, or can't be read.

        """
        if (request.content_length or 0) > request.client_max_size:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        while part := await _next_part(request):
            if size + len(part) > request.client_max_size:
                raise _too_large()
            others = self._body_bytes > size
            if others and self._body_bytes + len(part) > self._body_bytes_max:
                raise unavailable(
                    "the bodies of all requests in flight are too large together; send it again",
                    _RETRY_AFTER_S,
                )
            self._body_bytes += len(part)
            request[_BYTES] = size = size + len(part)
            parts.append(part)
        return b"".join(parts)

    async def drain(self, timeout_s: float) -> None:
        """Wait until none is left, but not for longer than that."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


async def _next_part(request: web.Request) -> bytes:
    """Wait for more of a body, and return it unpacked; empty at its end."""
    if request.content.at_eof():
        return b""
    try:
        return await request.content.readany()
    except (web.RequestPayloadError, ConnectionError):
        detail = "it ended early, or is not encoded as its headers say"
        raise Problem(400, "Body not received", detail) from None


def _too_large() -> Problem:
    return Problem(413, "Body too large", "see USERLOG_BODY_BYTES_MAX for the limit")
