"""Group commit: many callers, one batch in flight per partition, no lingering.

While a batch is being written, what arrives waits; when the batch returns, all that waits goes
as the next one, up to the limits. An idle log writes at once. So a batch is as large as the
load makes it, and nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import msgspec

from eventstore.errors import QueueFullError, UnavailableError
from eventstore.store import SealedEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Written: TypeAlias = tuple[str, int]
    Write: TypeAlias = Callable[[int, Sequence[SealedEvent]], Awaitable[list[Written]]]


class AppenderLimits(msgspec.Struct, frozen=True):
    """How much may wait, and how much goes at once."""

    queue_rows_max: int = 10_000
    batch_rows_max: int = 1_000
    batch_bytes_max: int = 4 * 1024 * 1024


class _Waiting(msgspec.Struct, frozen=True, eq=False):
    item: SealedEvent
    answer: asyncio.Future[Written]


class Appender:
    """Hands events to `write` in batches and each caller its own answer."""

    def __init__(self, write: Write, limits: AppenderLimits) -> None:
        """`write` takes a partition and a batch and answers for each item, in order."""
        self._write = write
        self._limits = limits
        self._lanes: dict[int, deque[_Waiting]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self.queued = 0
        self.observers: list[Callable[[int, float], None]] = []
        """Told of each batch that was written: how many events, and how many seconds it took."""

    def submit(self, items: Sequence[SealedEvent]) -> list[asyncio.Future[Written]]:
        """Queue events, all or none; QueueFullError when the queue has no room for them.

        More than it ever has room for are taken when nothing waits, or they would be refused for
        ever. Abandoning a future does not take its event back.
        """
        if self.queued and self.queued + len(items) > self._limits.queue_rows_max:
            msg = f"{self.queued} events wait to be written, the limit is reached"
            raise QueueFullError(msg)
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(item, loop.create_future()) for item in items]
        self.queued += len(waiting)
        for one in waiting:
            self._lane(one.item.key.stream.partition).append(one)
        return [one.answer for one in waiting]

    def _lane(self, partition: int) -> deque[_Waiting]:
        lane = self._lanes.setdefault(partition, deque())
        if partition not in self._running:
            task = asyncio.create_task(self._drive(partition, lane), name=f"append-{partition}")
            self._running[partition] = task
        return lane

    async def _drive(self, partition: int, lane: deque[_Waiting]) -> None:
        try:
            while lane:
                batch = self._take(lane)
                await self._write_batch(partition, batch)
                self.queued -= len(batch)
        finally:
            del self._running[partition]

    def _take(self, lane: deque[_Waiting]) -> list[_Waiting]:
        batch = [lane.popleft()]
        size = len(batch[0].item.payload)
        while lane and len(batch) < self._limits.batch_rows_max:
            size += len(lane[0].item.payload)
            if size > self._limits.batch_bytes_max:
                break
            batch.append(lane.popleft())
        return batch

    async def _write_batch(self, partition: int, batch: list[_Waiting]) -> None:
        """Write a batch; if it is refused for what is in it, each item alone.

        So one bad item fails alone. A refused batch left nothing in the log, and identities make
        it safe to try again.
        """
        began = time.perf_counter()
        try:
            written = await self._write(partition, [one.item for one in batch])
        except UnavailableError as error:
            _fail(batch, error)
        except (asyncpg.PostgresError, ValueError) as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:
                await self._write_batch(partition, [one])
        except BaseException as error:
            _fail(batch, UnavailableError(f"the append was interrupted ({type(error).__name__})"))
            raise
        else:
            for observe in self.observers:
                observe(len(batch), time.perf_counter() - began)
            for one, answer in zip(batch, written, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    async def drain(self) -> None:
        """Wait until everything queued has been written and answered."""
        while self._running:
            await asyncio.wait(self._running.values())


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
