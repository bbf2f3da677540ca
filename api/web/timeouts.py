"""Timeouts: every request has a deadline, whatever it waits for."""

from __future__ import annotations

import asyncio

from aiohttp import web

from api.web.problems import Problem, unavailable

DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
_RETRY_AFTER_S = 5


def extend(request: web.Request, seconds: float) -> None:
    """Give a request more time: one that asks to wait."""
    limit = request[DEADLINE]
    limit.reschedule((limit.when() or 0) + seconds)


def lift(request: web.Request) -> None:
    """Let a request last as long as its connection: a stream, which has limits of its own."""
    request[DEADLINE].reschedule(None)


def expired(request: web.Request, seconds: float) -> Problem:
    """503 for a request that took too long, or 408 if its sender has not finished.

    The events of a delivery may or may not be in the log by then. Sent again they are not doubled.
    """
    if request.body_exists and not request.content.is_eof():
        return Problem(
            408,
            "Request too slow",
            f"its body did not arrive within {seconds:g} seconds; send it again",
            headers={"Connection": "close"},
        )
    return unavailable(f"no answer within {seconds:g} seconds; send it again", _RETRY_AFTER_S)
