"""Waiting for what happens elsewhere: always bounded."""

from __future__ import annotations

import asyncio
import contextlib
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

_T = TypeVar("_T")
# A test that waits longer than this for something to happen has failed.
PATIENCE_S = 60
# Between two looks at something that gives no signal.
PAUSE_S = 0.01


@overload
async def until(look: Callable[[], Awaitable[_T | None]]) -> _T: ...
@overload
async def until(look: Callable[[], _T | None]) -> _T: ...
async def until(look: Callable[[], Any]) -> Any:
    """Look again and again until there is something to see, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = look()
            if found := await found if isawaitable(found) else found:
                return found
            await asyncio.sleep(PAUSE_S)


async def retried(action: Callable[[], Awaitable[_T]], on: type[Exception]) -> _T:
    """Try until it succeeds, as the platform does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(on):
                return await action()
            await asyncio.sleep(PAUSE_S)


@contextlib.asynccontextmanager
async def meanwhile(action: Coroutine[object, object, _T]) -> AsyncGenerator[asyncio.Task[_T]]:
    """Let something go on for as long as the block lasts, however the block ends."""
    task = asyncio.create_task(action)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
