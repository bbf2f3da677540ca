"""Requests that last: they wait for events, or stream them, while their token opens something."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from api.web.budgets import ACCESS, PLACE
from api.web.problems import token_wrong

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from aiohttp import web

    from api.web.budgets import Budgets
    from api.web.tokens import Tokens

T = TypeVar("T")


class Lasting:
    """Gives such requests their places, and ends them when their token is revoked."""

    def __init__(self, tokens: Tokens, budgets: Budgets) -> None:
        self._tokens = tokens
        self._budgets = budgets

    async def wait(self, request: web.Request, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work that waits, in a place for it, and return what it returns.

        Problem (401) as soon as the token is revoked.
        """
        place = request[PLACE]
        place.move(self._budgets.waits)
        try:
            async with self._tokens.watched(request[ACCESS]) as revoked:
                done = await first(work(), revoked.wait())
        finally:
            place.return_to(self._budgets.reads)
        if done is None or not await self.still_open(request):
            raise token_wrong()
        return done[0]

    @contextlib.asynccontextmanager
    async def streaming(self, request: web.Request) -> AsyncGenerator[asyncio.Event]:
        """Let a request stream; yield an event that is set as soon as the token is revoked."""
        request[PLACE].move(self._budgets.streams)
        async with self._tokens.watched(request[ACCESS]) as revoked:
            yield revoked

    async def still_open(self, request: web.Request) -> bool:
        """Say whether the token of a request still opens anything, as of a moment ago."""
        return await self._tokens.still_open(request[ACCESS])


async def first(
    work: Coroutine[Any, Any, T], *ends: Coroutine[Any, Any, object]
) -> tuple[T] | None:
    """Do work, and return what it returned; None if one of the `ends` came before that."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(one) for one in (work, *ends)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return (tasks[0].result(),) if tasks[0].done() else None
    finally:
        # No variable may go on to hold a task: its error holds this frame, which is a circle.
        while tasks:
            tasks.pop().cancel()
