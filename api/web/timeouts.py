"""No request is in hand for longer than its deadline, whatever it waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from api.web.problems import Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

_DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
_RETRY_AFTER_S = 5


def deadline(seconds: float) -> Middleware:
    """Answer 503 when a request takes longer, or 408 if it is the sender who has not finished.

    What a delivery brought may or may not be in the log by then. Sent again it is not doubled.
    """

    @web.middleware
    async def bound(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        limit = asyncio.timeout(seconds)
        request[_DEADLINE] = limit
        try:
            async with limit:
                return await handler(request)
        except TimeoutError:
            if not limit.expired():
                raise
        if request.body_exists and not request.content.is_eof():
            raise Problem(
                408,
                "Request too slow",
                f"its body did not arrive within {seconds:g} seconds; send it again",
                headers={"Connection": "close"},
            )
        raise unavailable(f"no answer within {seconds:g} seconds; send it again", _RETRY_AFTER_S)

    return bound


def extend(request: web.Request, seconds: float) -> None:
    """Give a request more time: one that was asked to wait."""
    limit = request[_DEADLINE]
    limit.reschedule((limit.when() or 0) + seconds)


def lift(request: web.Request) -> None:
    """Let a request go on for as long as its connection: a stream, which has limits of its own."""
    request[_DEADLINE].reschedule(None)
