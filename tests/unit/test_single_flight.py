"""Work that is done once for all who ask for it at a time."""

from __future__ import annotations

import asyncio

import pytest

from api.web.single_flight import SingleFlight


class Work:
    """Work that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = self.at_once = 0
        self.going = asyncio.Event()
        self.begins = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.at_once += 1
        assert self.at_once == 1
        number = self.begun
        self.begins.set()
        await self.going.wait()
        self.at_once -= 1
        return number


async def test_once_for_all_who_wait() -> None:
    """Who asks before it begins shares it; who asks later gets what began after they asked."""
    work = Work()
    flight = SingleFlight(work, pause_s=0)
    first = [asyncio.create_task(flight.result()) for _ in range(100)]
    await work.begins.wait()
    later = [asyncio.create_task(flight.result()) for _ in range(100)]
    await asyncio.sleep(0)
    work.going.set()
    assert await asyncio.gather(*first) == [1] * 100
    assert await asyncio.gather(*later) == [2] * 100
    assert await flight.result() == 3


async def test_not_again_before_the_pause_is_over() -> None:
    """However many ask one after the other, it is not begun again before its time."""
    work = Work()
    work.going.set()
    flight = SingleFlight(work, pause_s=3_600)
    assert await flight.result() == 1
    waiting = [asyncio.create_task(flight.result()) for _ in range(100)]
    await asyncio.wait(waiting, timeout=0.01)
    assert work.begun == 1
    for task in waiting:
        task.cancel()
    await flight.close()


async def test_errors_are_for_all() -> None:
    """All who wait get the error; the next try is another one."""
    tries = 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError
        return tries

    flight = SingleFlight(work, pause_s=0)
    found = await asyncio.gather(*(flight.result() for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [OSError] * 3
    assert await flight.result() == 2


async def test_who_leaves_ends_nothing() -> None:
    """One who waits no longer does not break it off for the others; closing does, for all."""
    work = Work()
    flight = SingleFlight(work, pause_s=0)
    leaving, staying = (asyncio.create_task(flight.result()) for _ in range(2))
    await work.begins.wait()
    leaving.cancel()
    work.going.set()
    assert await staying == 1
    work.going.clear()
    work.begins.clear()
    waiting = asyncio.create_task(flight.result())
    await work.begins.wait()
    await flight.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
