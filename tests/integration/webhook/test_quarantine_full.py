"""The quarantine has so much room: its bytes are counted, and what has no room is refused whole."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from api.export_import import Importer
from eventstore.errors import QuarantineFullError
from eventstore.quarantine import Quarantine
from tests.support.deliveries import delivery, encoded, entry, envelope
from tests.support.monitoring import metrics
from tests.support.serving import assert_problem, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack
    from tests.support.serving import Service

SOME = pytest.mark.parametrize("partitions", [1, 4], indirect=True, ids="{}-partitions".format)
ROOM = 60_000
# It can't be compressed.
LARGE = random.Random(0).randbytes(50_000)
HALF = encoded(envelope([entry("good"), 7]))


async def totals(stack: Stack) -> tuple[int, int]:
    """Return deliveries and bytes as they are counted, after comparing them with what is there."""
    counted = await stack.pool.fetchrow(
        "SELECT coalesce(sum(deliveries), 0) AS deliveries, coalesce(sum(bytes), 0) AS bytes"
        " FROM userlog.quarantine_totals"
    )
    there = await stack.pool.fetchrow(
        "SELECT count(*) AS deliveries, coalesce(sum(bytes), 0) AS bytes FROM userlog.quarantine"
    )
    assert counted
    assert there == counted
    return counted["deliveries"], counted["bytes"]


@SOME
async def test_bytes_are_counted(stack: Stack) -> None:
    """What comes counts once, about as much as it occupies, and what goes counts no more."""
    assert await totals(stack) == (0, 0)
    key = await stack.quarantine.put(LARGE, "not-json", "cut off", {"user-agent": "x"})
    deliveries, size = await totals(stack)
    assert deliveries == 1
    assert len(LARGE) < size < 1.02 * len(LARGE)
    await stack.quarantine.put(LARGE, "not-json", "a longer detail", {"user-agent": "another"})
    assert await totals(stack) == (1, size)
    await stack.quarantine.put(b"{", "not-json", "")
    assert await totals(stack) > (1, size)
    assert [await stack.quarantine.remove(key) for _ in range(2)] == [True, False]
    assert (await totals(stack))[0] == await stack.quarantine.count() == 1


@SOME
async def test_counted_by_several_processes(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Whoever puts what, removes it or replays it at the same time, the count is right."""
    other = await open_stack(stack.url)
    bodies = [*(b"%d" % n for n in range(6)), *(delivery(f"u{n}") for n in range(3))]
    for _ in range(3):
        await asyncio.gather(
            *(
                one.quarantine.put(body, "not-json", "")
                for one, body in itertools.product((stack, other), bodies)
            )
        )
        assert (await totals(stack))[0] == len(bodies)
        keys = await stack.quarantine.keys(None)
        again = [one.quarantine.put(bodies[0], "not-json", "") for one in (stack, other)]
        gone = [one.quarantine.remove(key) for one in (stack, other) for key in keys[::2]]
        taken = [one.ingest.replay(key) for one in (stack, other) for key in keys]
        await asyncio.gather(*again, *gone, *taken)
        await totals(stack)
    for key in await stack.quarantine.keys(None):
        assert await stack.quarantine.remove(key)
    assert await totals(stack) == (0, 0)


async def events(client: Service) -> int:
    """Return how many events are in the log."""
    return sum(head.position.number for head in await client.runtime.log.heads())


@SOME
async def test_only_what_has_no_room_is_refused(database_url: str) -> None:
    """When it is full, what would go there gets 503, as a whole; everything else goes on."""
    async with serving(database_url, quarantine_bytes_max=ROOM) as client:
        assert (await client.post(LARGE)).status == 200
        for body in (LARGE[:20_000], encoded(envelope([entry("good"), LARGE.hex()]))):
            refused = await client.post(body)
            assert_problem(refused, 503)
            assert int(refused.headers["retry-after"]) > 0
        assert await events(client) == 0, "of neither is a part in the log"
        assert (await client.post(delivery("u"))).body["accepted"] == 1
        assert (await client.post(LARGE)).body["quarantined"] == 1, "it is there already"
        assert (await client.post(HALF)).body["accepted"] == 1, "there is room for a small one"
        name = "userlog_deliveries_refused_total", "quarantine-full"
        assert (await metrics(client))[name] == 2
        (key, _) = await client.runtime.quarantine.keys(None)
        await client.runtime.quarantine.remove(key)
        assert (await client.post(LARGE[:20_000])).body["quarantined"] == 1, "room at once"


async def test_sent_again_it_is_whole(database_url: str) -> None:
    """A delivery that was refused for its bad part is taken whole when there is room."""
    async with serving(database_url, quarantine_bytes_max=1) as client:
        for _ in range(2):
            assert (await client.post(HALF)).status == 503
        assert await events(client) == 0
    async with serving(database_url) as client:
        answer = await client.post(HALF)
        assert (answer.body["accepted"], answer.body["quarantined"]) == (1, 1)


async def test_what_only_the_log_finds_out(database_url: str) -> None:
    """Of a conflict without room the other events stay; sent again, they are duplicates."""
    async with serving(database_url, quarantine_bytes_max=1) as client:
        assert (await client.post(delivery("u", event_id="1", gender="male"))).status == 200
        body = encoded(envelope([entry("v"), entry("u", gender="female")], id="1"))
        for _ in range(2):
            assert (await client.post(body)).status == 503
            assert await events(client) == 2
    async with serving(database_url) as client:
        answer = await client.post(body)
        assert (answer.body["duplicates"], answer.body["quarantined"]) == (1, 1)


async def test_an_import_stops(stack: Stack) -> None:
    """An import that has no room says so and stops; run again with room, it brings the rest."""
    lines = [delivery("u"), b"{", delivery("v")]
    full = Quarantine(stack.pool, stack.log.partitions, stack.log.own_keys, bytes_max=100)
    with pytest.raises(QuarantineFullError, match="USERLOG_QUARANTINE_BYTES_MAX"):
        await Importer(stack.log, full).take(lines)
    importer = Importer(stack.log, stack.quarantine)
    await importer.take(lines)
    assert (importer.done.appended, importer.done.quarantined) == (2, 1)
