"""Group commit: many callers, one batch in flight for each partition, no lingering.

While a batch is in flight, what arrives waits, and goes as the next one. There is no timer: an
idle partition begins at once, and a batch is as large as the load makes it. `Batcher` does this
for anything; `GroupCommit` adds limits and an answer for each caller, and `SharedReads` gives all
who wait the same answer.

Callers are answered a few at a time. Answered all at once, they would all seal their next events
before the next batch could leave, and the database would wait for them as they wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from eventstore.errors import QueueFullError, UnavailableError, as_unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventstore.events import Stream

    Observer: TypeAlias = Callable[[int, float], None]

K = TypeVar("K", bound="Hashable")
T = TypeVar("T")
_ANSWERED_AT_ONCE = 4


class Batcher(Generic[K, T]):
    """Queues items by a key, say their partition, and runs one batch after the other in each."""

    def __init__(self, name: str, run: Callable[[K, deque[T]], Awaitable[None]]) -> None:
        """`run` takes a batch from the left of a key's queue and answers for it.

        It must take at least one item. If it raises, it has to have answered for all that wait.
        """
        self._name = name
        self._run = run
        self._queues: dict[K, deque[T]] = {}
        self._running: dict[K, asyncio.Task[None]] = {}

    def put(self, key: K, item: T) -> None:
        """Queue an item, and start on it unless a batch of the key is in flight."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(item)
        if key not in self._running:
            name = f"{self._name}-{key}"
            self._running[key] = asyncio.create_task(self._drive(key, queue), name=name)

    async def _drive(self, key: K, queue: deque[T]) -> None:
        try:
            while queue:
                await self._run(key, queue)
        finally:
            del self._running[key], self._queues[key]

    async def drain(self) -> None:
        """Wait until every queue is empty and no batch is in flight."""
        while self._running:
            await asyncio.wait(self._running.values())


class SharedReads(Generic[K, T]):
    """Reads what many ask for at once: who comes while a read is in flight shares the next one.

    So each gets what was there when they asked, or later, and the database is asked by one.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[K], Awaitable[T]],
        turn: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """With a lock as `turn`, keys are read one after the other.

        A key whose callers have all left when its turn comes is not read.
        """
        self._read = read
        self._turn = turn or contextlib.nullcontext()
        self._batcher: Batcher[K, asyncio.Future[T]] = Batcher(name, self._run)

    def get(self, key: K) -> asyncio.Future[T]:
        """Return what reading a key gives, or raise what it raises; all get the same object."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._batcher.put(key, answer)
        return answer

    async def _run(self, key: K, queue: deque[asyncio.Future[T]]) -> None:
        async with self._turn:
            asked = [one for one in queue if not one.done()]
            queue.clear()
            if asked:
                await self._answer(key, asked)

    async def _answer(self, key: K, asked: list[asyncio.Future[T]]) -> None:
        try:
            found = await self._read(key)
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for one in asked:
                if not one.done():
                    one.set_exception(error)
        else:
            for one in asked:
                if not one.done():
                    one.set_result(found)


class QueueLimits(msgspec.Struct, frozen=True):
    """How many events may wait, and how many go in one batch."""

    queue_rows_max: int = 10_000
    batch_rows_max: int = 1_000
    batch_bytes_max: int = 4 * 1024 * 1024


class Item(Protocol):
    """What goes in batches: it has a partition, a name that is once in a batch, and a size."""

    @property
    def stream(self) -> Stream: ...

    @property
    def identity(self) -> bytes: ...

    @property
    def payload(self) -> bytes: ...


I = TypeVar("I", bound=Item)  # noqa: E741 - an item
A = TypeVar("A")  # an answer


class _Submission(Generic[A]):
    """The items of one caller, who is answered when all of them have been written."""

    __slots__ = ("_answers", "_count", "answer")

    def __init__(self, count: int) -> None:
        self.answer: asyncio.Future[list[A]] = asyncio.get_running_loop().create_future()
        self._answers: dict[int, A] = {}
        self._count = count

    def resolve(self, slot: int, answer: A) -> None:
        """Keep the answer for one item; with the last one the caller is answered."""
        self._answers[slot] = answer
        if len(self._answers) == self._count and not self.answer.done():
            self.answer.set_result([self._answers[n] for n in range(self._count)])

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless the caller has one already, or has left."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Waiting(NamedTuple, Generic[I, A]):
    item: I
    submission: _Submission[A]
    slot: int


class GroupCommit(Generic[I, A]):
    """Passes items to `write` in batches and gives each caller its own answer."""

    def __init__(
        self,
        write: Callable[[int, Sequence[I]], Awaitable[list[A]]],
        limits: QueueLimits,
        observers: Sequence[Observer] = (),
    ) -> None:
        """`write` takes a partition and a batch and answers for each item, in order.

        `observers` are called after each batch with the number of its items and its seconds.
        """
        self._write = write
        self._limits = limits
        self._observers = observers
        self._batcher: Batcher[int, _Waiting[I, A]] = Batcher("append", self._run)
        self._answering: set[asyncio.Task[None]] = set()
        self.queued = 0

    def submit(self, items: Sequence[I]) -> asyncio.Future[list[A]]:
        """Queue items, all or none; QueueFullError when the queue has no room for them.

        More than it ever has room for are taken when nothing waits, or they would be refused for
        ever. Abandoning the future does not take the items back.
        """
        if self.queued and self.queued + len(items) > self._limits.queue_rows_max:
            msg = f"{self.queued} events wait to be written, the limit is reached"
            raise QueueFullError(msg)
        self.queued += len(items)
        submission: _Submission[A] = _Submission(len(items))
        if not items:
            submission.answer.set_result([])
        for slot, item in enumerate(items):
            self._batcher.put(item.stream.partition, _Waiting(item, submission, slot))
        return submission.answer

    async def _run(self, partition: int, queue: deque[_Waiting[I, A]]) -> None:
        batch = _take(queue, self._limits)
        try:
            await self._write_batch(partition, batch)
        except BaseException:  # cancelled: the event loop is closing
            _fail(queue, UnavailableError("the append was interrupted"))
            self.queued -= len(queue)
            queue.clear()
            raise
        finally:
            self.queued -= len(batch)

    async def _write_batch(self, partition: int, batch: list[_Waiting[I, A]]) -> None:
        """Write a batch; if it is refused for what is in it, each item alone.

        So one bad item fails alone. A refused batch left nothing in the log, and identities make
        it safe to try again.
        """
        began = time.perf_counter()
        try:
            answers = await self._write(partition, [one.item for one in batch])
        except Exception as error:  # noqa: BLE001 - each caller gets its own
            away = as_unavailable(error)
            if away or len(batch) == 1:
                _fail(batch, away or error)
                return
            for one in batch:
                await self._write_batch(partition, [one])
        except BaseException as error:
            _fail(batch, UnavailableError(f"the append was interrupted ({type(error).__name__})"))
            raise
        else:
            for observe in self._observers:
                observe(len(batch), time.perf_counter() - began)
            answering = asyncio.create_task(_answer(batch, answers))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def drain(self) -> None:
        """Wait until everything queued has been written and answered."""
        await self._batcher.drain()
        while self._answering:
            await asyncio.wait(self._answering)


async def _answer(batch: list[_Waiting[I, A]], answers: list[A]) -> None:
    for n, (one, answer) in enumerate(zip(batch, answers, strict=True), 1):
        one.submission.resolve(one.slot, answer)
        if n % _ANSWERED_AT_ONCE == 0:
            await asyncio.sleep(0)


def _take(queue: deque[_Waiting[I, A]], limits: QueueLimits) -> list[_Waiting[I, A]]:
    """Take the next batch; of items with one identity only the first, the others in later ones."""
    if len(queue) <= limits.batch_rows_max:
        size = sum(len(one.item.payload) for one in queue)
        identities = {one.item.identity for one in queue}
        if size <= limits.batch_bytes_max and len(identities) == len(queue):
            batch = list(queue)
            queue.clear()
            return batch
    return _take_within(queue, limits)


def _take_within(queue: deque[_Waiting[I, A]], limits: QueueLimits) -> list[_Waiting[I, A]]:
    batch: list[_Waiting[I, A]] = []
    later: list[_Waiting[I, A]] = []
    identities: set[bytes] = set()
    size = 0
    while queue and len(batch) < limits.batch_rows_max:
        one = queue.popleft()
        if one.item.identity in identities:
            later.append(one)
            continue
        size += len(one.item.payload)
        if batch and size > limits.batch_bytes_max:
            later.append(one)
            break
        identities.add(one.item.identity)
        batch.append(one)
    queue.extendleft(reversed(later))
    return batch


def _fail(batch: Iterable[_Waiting[I, A]], error: Exception) -> None:
    for one in batch:
        one.submission.fail(error)
