"""Timeouts: every request has a deadline, whatever it waits for."""

from __future__ import annotations

import asyncio

from aiohttp import web

from api.web.problems import Problem, unavailable

DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
_GIVEN_UP = web.RequestKey("given_up", bool)
_RETRY_AFTER_S = 5


def extend(request: web.Request, seconds: float) -> None:
    """Give a request more time: one that asks to wait."""
    limit = request[DEADLINE]
    limit.reschedule((limit.when() or 0) + seconds)


def shorten(request: web.Request, seconds: float) -> None:
    """Give a request no more than so many seconds from now."""
    limit = request[DEADLINE]
    until = asyncio.get_running_loop().time() + seconds
    limit.reschedule(min(limit.when() or until, until))


def lift(request: web.Request) -> None:
    """Let a request last as long as its connection: a stream, which has limits of its own."""
    request[DEADLINE].reschedule(None)


def give_up(request: web.Request) -> None:
    """End a request whose body is still arriving, because others need the room."""
    request[_GIVEN_UP] = True
    request[DEADLINE].reschedule(asyncio.get_running_loop().time())


def expired(request: web.Request, seconds: float) -> Problem:
    """503 for a request that took too long, or 408 if its sender has not finished.

    The events of a delivery may or may not be in the log by then. Sent again they are not doubled.
    """
    if request.get(_GIVEN_UP):
        why = "its body came more slowly than others, and there is no room for all"
        return _too_slow(why)
    if request.body_exists and not request.content.is_eof():
        return _too_slow("its body did not arrive in time")
    return unavailable(f"no answer within {seconds:g} seconds; send it again", _RETRY_AFTER_S)


def _too_slow(why: str) -> Problem:
    return Problem(
        408, "Request too slow", f"{why}; send it again", headers={"Connection": "close"}
    )
