"""Waiting for a database that is away, until the service is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from eventstore.errors import UnavailableError
from eventstore.postgres.upgrade import UpgradeRunningError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
_PAUSE_S = 1.0
_log = structlog.stdlib.get_logger("userlog")


class StoppedWaitingError(Exception):
    """The service was stopped before its database was reachable."""


async def wait_for(work: Callable[[], Coroutine[Any, Any, T]], stopping: asyncio.Event) -> T:
    """Do some work as soon as the database lets it; StoppedWaitingError if stopped before."""
    waiting = False
    while not stopping.is_set():
        try:
            return await _until_set(work(), stopping)
        except (UnavailableError, UpgradeRunningError) as error:
            if not waiting:
                _log.warning("waiting for the database", problem=str(error))
            waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _PAUSE_S)
    raise StoppedWaitingError


async def _until_set(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T:
    """Do some work, unless the service is stopped first (StoppedWaitingError)."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        raise StoppedWaitingError
    return task.result()
