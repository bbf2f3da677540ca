"""Group commit: many callers, one batch in flight per partition, no lingering.

While a batch is being written, what arrives waits; when the batch returns, all that waits goes
as the next one, up to the limits. An idle log writes at once. So a batch is as large as the
load makes it, and nobody waits for a timer.

Callers are answered a few at a time. Answered all at once, they would all seal their next events
before the next batch could leave, and the database would wait for them as they wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import msgspec

from eventstore.errors import QueueFullError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventstore.store import SealedEvent

    Written: TypeAlias = tuple[str, int]
    _Waiting: TypeAlias = "tuple[SealedEvent, _Call, int]"
    Write: TypeAlias = Callable[[int, Sequence[SealedEvent]], Awaitable[list[Written]]]

_NOT_WRITTEN = ("", 0)
_ANSWERED_AT_ONCE = 4


class AppenderLimits(msgspec.Struct, frozen=True):
    """How much may wait, and how much goes at once."""

    queue_rows_max: int = 10_000
    batch_rows_max: int = 1_000
    batch_bytes_max: int = 4 * 1024 * 1024


class _Call:
    """What one caller handed over; answered when all of it has been written."""

    __slots__ = ("_left", "_written", "answer")

    def __init__(self, count: int) -> None:
        self.answer: asyncio.Future[list[Written]] = asyncio.get_running_loop().create_future()
        self._written: list[Written] = [_NOT_WRITTEN] * count
        self._left = count

    def take(self, place: int, written: Written) -> None:
        """Note what became of one event; with the last one the caller is answered."""
        self._written[place] = written
        self._left -= 1
        if not self._left and not self.answer.done():
            self.answer.set_result(self._written)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the caller has one already, or has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Lane:
    """What waits for one partition, and its size."""

    __slots__ = ("payload_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.payload_bytes = 0


class Appender:
    """Hands events to `write` in batches and each caller its own answer."""

    def __init__(self, write: Write, limits: AppenderLimits) -> None:
        """`write` takes a partition and a batch and answers for each item, in order."""
        self._write = write
        self._limits = limits
        self._lanes: dict[int, _Lane] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.queued = 0
        self.observers: list[Callable[[int, float], None]] = []
        """Told of each batch that was written: how many events, and how many seconds it took."""

    def submit(self, items: Sequence[SealedEvent]) -> asyncio.Future[list[Written]]:
        """Queue events, all or none; QueueFullError when the queue has no room for them.

        More than it ever has room for are taken when nothing waits, or they would be refused for
        ever. Abandoning the future does not take the events back.
        """
        if self.queued and self.queued + len(items) > self._limits.queue_rows_max:
            msg = f"{self.queued} events wait to be written, the limit is reached"
            raise QueueFullError(msg)
        self.queued += len(items)
        call = _Call(len(items))
        for place, item in enumerate(items):
            lane = self._lane(item.stream.partition)
            lane.waiting.append((item, call, place))
            lane.payload_bytes += len(item.payload)
        return call.answer

    def _lane(self, partition: int) -> _Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane()
        if partition not in self._running:
            task = asyncio.create_task(self._drive(partition, lane), name=f"append-{partition}")
            self._running[partition] = task
        return lane

    async def _drive(self, partition: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = self._take(lane)
                await self._write_batch(partition, batch)
                self.queued -= len(batch)
        finally:
            del self._running[partition]

    def _take(self, lane: _Lane) -> list[_Waiting]:
        """Take the next batch; of events that are the same, one, and the others in later ones."""
        limits, waiting = self._limits, lane.waiting
        names = {item.identity for item, _, _ in waiting}
        small = len(waiting) <= limits.batch_rows_max
        if small and lane.payload_bytes <= limits.batch_bytes_max and len(names) == len(waiting):
            batch = list(waiting)
            waiting.clear()
        else:
            batch = _first(waiting, limits)
        lane.payload_bytes -= sum(len(item.payload) for item, _, _ in batch)
        return batch

    async def _write_batch(self, partition: int, batch: list[_Waiting]) -> None:
        """Write a batch; if it is refused for what is in it, each item alone.

        So one bad item fails alone. A refused batch left nothing in the log, and identities make
        it safe to try again.
        """
        began = time.perf_counter()
        try:
            written = await self._write(partition, [item for item, _, _ in batch])
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
            answering = asyncio.create_task(_answer(batch, written))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def drain(self) -> None:
        """Wait until everything queued has been written and answered."""
        while tasks := {*self._running.values(), *self._answering}:
            await asyncio.wait(tasks)


async def _answer(batch: list[_Waiting], written: list[Written]) -> None:
    for n, ((_, call, place), one) in enumerate(zip(batch, written, strict=True), 1):
        call.take(place, one)
        if n % _ANSWERED_AT_ONCE == 0:
            await asyncio.sleep(0)


def _first(waiting: deque[_Waiting], limits: AppenderLimits) -> list[_Waiting]:
    batch: list[_Waiting] = []
    later: list[_Waiting] = []
    names: set[bytes] = set()
    size = 0
    while waiting and len(batch) < limits.batch_rows_max:
        one = waiting.popleft()
        item = one[0]
        if item.identity in names:
            later.append(one)
            continue
        size += len(item.payload)
        if batch and size > limits.batch_bytes_max:
            later.append(one)
            break
        names.add(item.identity)
        batch.append(one)
    waiting.extendleft(reversed(later))
    return batch


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for _, call, _ in batch:
        call.fail(error)
