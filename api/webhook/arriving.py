"""Bodies that are arriving: how many there may be, how large, and which has to go.

A body that came together with its head, as nearly all do, is never one of them. When there are
too many, or too many bytes of them, the one that brought least in a second is given up: a sender
who only holds places makes room for a slow but honest one. The newest is never given up, as
nothing is known of it yet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from api.web import timeouts
from api.web.problems import Problem, too_large

if TYPE_CHECKING:
    from collections.abc import Callable

# For so long a body is judged only if all others are as new.
_GRACE_S = 1.0


class _Body:
    """One of them."""

    __slots__ = ("began", "parts", "request", "size")

    def __init__(self, request: web.Request, now: float) -> None:
        self.request = request
        self.began = now
        self.size = 0
        self.parts: list[bytes] = []


class Arriving:
    """The bodies that are arriving in this process."""

    def __init__(self, bodies_max: int, bytes_max: int) -> None:
        """`bytes_max` is for all of them together."""
        self._bodies_max = bodies_max
        self._bytes_max = bytes_max
        self._bytes = 0
        # In the order in which they began.
        self._bodies: dict[_Body, None] = {}

    async def read(self, request: web.Request, most: int, heard: Callable[[bytes], None]) -> bytes:
        """Read a body; each part is `heard` when it comes.

        Raises:
            Problem: it is larger than `most` (413), too slow (408), or can't be read (400).

        """
        content = request.content
        if content.is_eof():
            part = await _next_part(request)
            if len(part) > most:
                raise too_large()
            heard(part)
            return part
        now = asyncio.get_running_loop().time
        self._bodies[body := _Body(request, now())] = None
        try:
            while True:
                self._make_room(now(), newest=next(reversed(self._bodies)))
                part = await _next_part(request)
                if body not in self._bodies:
                    raise timeouts.expired(request, 0)
                if not part:
                    return b"".join(body.parts)
                if body.size + len(part) > most:
                    raise too_large()
                self._bytes += len(part)
                body.size += len(part)
                heard(part)
                body.parts.append(part)
        finally:
            self._forget(body)

    def _make_room(self, now: float, newest: _Body) -> None:
        while len(self._bodies) > self._bodies_max or self._bytes > self._bytes_max:
            others = [one for one in self._bodies if one is not newest]
            if not others:
                return
            slowest = min(others, key=lambda one: _worth(one, now))
            self._forget(slowest)
            timeouts.give_up(slowest.request)

    def _forget(self, body: _Body) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self._bytes -= body.size
            body.parts.clear()  # the request itself has to wait for its turn


def _worth(body: _Body, now: float) -> tuple[bool, float]:
    age = now - body.began
    return age < _GRACE_S, body.size / max(age, 1e-6)


async def _next_part(request: web.Request) -> bytes:
    """Wait for more of a body; empty at its end."""
    if request.content.at_eof():
        return b""
    try:
        return await request.content.readany()
    except (web.RequestPayloadError, ConnectionError):
        raise Problem(400, "Body not received", "it ended early") from None
