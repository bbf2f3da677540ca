from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest

from eventstore.errors import QueueFullError, UnavailableError
from eventstore.events import Stream
from eventstore.group_commit import GroupCommit, QueueLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAM = Stream.of("app", "user", 1)
LIMITS = QueueLimits(queue_rows_max=3)


class Item(NamedTuple):
    """Something to write."""

    identity: bytes
    stream: Stream = STREAM
    payload: bytes = b""


class Database:
    """Writes items, unless there is one among them that it can't write."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.writing = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def write(self, _partition: int, batch: Sequence[Item]) -> list[str]:
        self.writing.set()
        await self.goes_on.wait()
        if self.error and any(item.identity == b"bad" for item in batch):
            raise self.error
        return [item.identity.decode() for item in batch]


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), TypeError(), KeyError("row")])
async def test_an_unforeseen_error_leaves_no_count_behind(error: Exception) -> None:
    """After more failures than the queue has room for, an append is written as before."""
    commit = GroupCommit(Database(error).write, LIMITS)
    for _ in range(2 * LIMITS.queue_rows_max):
        with pytest.raises(type(error)):
            await commit.submit([Item(b"bad")])
        assert commit.queued == 0
    assert await commit.submit([Item(b"good")]) == ["good"]


async def test_an_unforeseen_error_fails_one_item_alone() -> None:
    """What waits beside an item that can't be written, and behind it, is written."""
    database = Database(RuntimeError("unforeseen"))
    database.goes_on.clear()
    commit = GroupCommit(database.write, LIMITS)
    first = commit.submit([Item(b"first")])
    await database.writing.wait()
    bad, good = commit.submit([Item(b"bad")]), commit.submit([Item(b"good")])
    database.goes_on.set()
    assert (await first, await good) == (["first"], ["good"])
    with pytest.raises(RuntimeError):
        await bad
    assert commit.queued == 0


async def test_an_interrupted_batch_answers_all_that_wait() -> None:
    """Whoever waits when writing is cancelled gets an error, and the queue has room again."""
    database = Database()
    database.goes_on.clear()
    commit = GroupCommit(database.write, LIMITS)
    answers = [commit.submit([Item(b"1")])]
    await database.writing.wait()
    answers += [commit.submit([Item(b"2")]), commit.submit([Item(b"3")])]
    with pytest.raises(QueueFullError):
        await commit.submit([Item(b"4")])
    (task,) = [one for one in asyncio.all_tasks() if one.get_name() == "append-0"]
    task.cancel()
    for answer in answers:
        with pytest.raises(UnavailableError):
            await answer
    assert commit.queued == 0
    database.goes_on.set()
    assert await commit.submit([Item(b"4")]) == ["4"]


async def test_nothing_to_write() -> None:
    """A call without items is answered at once."""
    assert await GroupCommit(Database().write, LIMITS).submit([]) == []
