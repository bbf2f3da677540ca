"""Reads that are shared: one for all who ask while another is in flight, and never an older one."""

from __future__ import annotations

import asyncio

import pytest

from eventstore.group_commit import SharedReads


class Source:
    """Counts its reads; each waits until it may go on, and gives what there was when it began."""

    def __init__(self) -> None:
        self.value = 0
        self.began = 0
        self.goes_on = asyncio.Event()
        self.error: Exception | None = None

    async def read(self, key: str) -> str:
        self.began += 1
        found = f"{key}{self.value}"
        await self.goes_on.wait()
        if self.error:
            raise self.error
        return found


async def test_who_comes_meanwhile_shares_the_next() -> None:
    """A read that began before one asked is not theirs; those who ask later share one."""
    source = Source()
    reads: SharedReads[str, str] = SharedReads("test", source.read)
    first = reads.get("a")
    await asyncio.sleep(0)
    source.value = 1
    later = [reads.get("a") for _ in range(100)]
    other = reads.get("b")
    await asyncio.sleep(0)
    assert source.began == 2, "one for each key"
    source.goes_on.set()
    assert await first == "a0"
    assert set(await asyncio.gather(*later)) == {"a1"}
    assert await other == "b1"
    assert source.began == 3
    await asyncio.sleep(0)
    assert not reads._batcher._queues, "nothing is kept of keys that nobody asks for"


async def test_an_error_is_everybodys() -> None:
    """All who shared a read get its error, and the next one begins anew."""
    source = Source()
    reads: SharedReads[str, str] = SharedReads("test", source.read)
    source.error = OSError()
    source.goes_on.set()
    asked = [reads.get("a") for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert found == [source.error] * 3
    source.error = None
    assert await reads.get("a") == "a0"


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    """One of those who share a read may go away."""
    source = Source()
    reads: SharedReads[str, str] = SharedReads("test", source.read)
    one, other = reads.get("a"), reads.get("a")
    await asyncio.sleep(0)
    one.cancel()
    source.goes_on.set()
    assert await other == "a0"
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_what_nobody_waits_for_has_no_turn() -> None:
    """Of keys that are read one after the other, one whose readers have all left is not read."""
    source = Source()
    reads: SharedReads[str, str] = SharedReads("test", source.read, asyncio.Lock())
    first, left, stays = (reads.get(key) for key in "abc")
    await asyncio.sleep(0)
    also = reads.get("c")
    assert source.began == 1
    left.cancel()
    source.goes_on.set()
    assert [await one for one in (first, stays, also)] == ["a0", "c0", "c0"]
    assert source.began == 2
