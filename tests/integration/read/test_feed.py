"""The log as a feed, page by page and as a stream, from a running service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession

from api.endpoints import feed as feed_module
from eventstore.events import Place, Position
from eventstore.log import EventLog
from tests.support.database import alter, connected, holding
from tests.support.deliveries import APP, delivery
from tests.support.events import BY
from tests.support.proxy import proxied
from tests.support.serving import AUTH, serving
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import asyncpg
    from aiohttp import ClientResponse

    from tests.conftest import Stack
    from tests.support.serving import Service

STREAM = {**AUTH, "Accept": "text/event-stream"}


class Feed(NamedTuple):
    """The feed of a running service."""

    service: Service

    async def deliver(self, *bodies: bytes) -> None:
        for body in bodies:
            assert (await self.service.runtime.ingest.deliver(body)).accepted == 1

    async def get(self, **query: str) -> tuple[int, Any]:
        answer = await self.service.get("/v1/events", **query)
        return answer.status, answer.body

    async def ids(self, **query: str) -> list[str]:
        status, page = await self.get(**query)
        assert status == 200
        return [event["id"] for event in page["events"]]

    @contextlib.asynccontextmanager
    async def stream(self, **headers: str) -> AsyncGenerator[ClientResponse]:
        asked = self.service.client.get("/v1/events", headers={**STREAM, **headers})
        async with asked as response:
            assert response.content_type == "text/event-stream"
            yield response


@pytest.fixture
async def feed(database_url: str) -> AsyncIterator[Feed]:
    async with serving(database_url) as service:
        yield Feed(service)


async def _events(response: ClientResponse, count: int) -> list[dict[str, str]]:
    """Read so many events of a stream."""
    found: list[dict[str, str]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            block = (await response.content.readuntil(b"\n\n")).decode().strip()
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in fields:
                found.append(fields)
    return found


def _at(message: dict[str, str]) -> str:
    """Return the position of a message, whose id has a piece of its hash besides."""
    place = Place.parse(message["id"])
    assert place.piece
    return str(place.position)


async def test_pages(feed: Feed) -> None:
    """Following `next` visits every event once, in order, and then stays at the end."""
    await feed.deliver(*(delivery(f"u{n % 2}", at_ms=n) for n in range(5)))
    found, after = [], "0:0"
    for expected in (2, 2, 1, 0, 0):
        status, page = await feed.get(after=after, limit="2")
        assert (status, len(page["events"])) == (200, expected)
        found += [event["id"] for event in page["events"]]
        after = page["next"]
    assert found == [f"0:{n}" for n in range(1, 6)]
    assert await feed.ids() == found


async def test_what_an_event_says(feed: Feed) -> None:
    """An event is a CloudEvent that says whose it is, when, and what it carries."""
    await feed.deliver(delivery("a/b c", kind="create", first_name="A", x=1))
    _, page = await feed.get()
    (event,) = page["events"]
    recorded = event.pop("recordedtime")
    assert recorded.endswith("Z")
    assert event == {
        "specversion": "1.0",
        "id": "0:1",
        "source": f"/v1/applications/{APP}",
        "type": "user.created",
        "subject": "a/b c",
        "time": "2023-06-13T09:48:47.621Z",
        "data": {"company_id": 1, "state": {"first_name": "A", "extra": {"x": 1}}},
    }


async def test_erased_and_unreadable(feed: Feed, stack: Stack) -> None:
    """Of an erased user only the shells are left; one event that can't be read stops no other."""
    log = feed.service.runtime.log
    await feed.deliver(delivery("u"), delivery("v"), delivery("w", first_name="W"))
    await log.erase(log.stream(APP, "u"), BY)
    await alter(stack, 2)
    _, page = await feed.get()
    shown = [(e["type"], e["data"], e.get("dataerror")) for e in page["events"]]
    assert shown == [
        ("user.updated", None, None),
        ("user.updated", None, "seal-broken"),
        ("user.updated", {"company_id": 1, "state": {"first_name": "W"}}, None),
        ("user.erased", None, None),
    ]


@pytest.mark.parametrize("partitions", [4], indirect=True, ids=["4-partitions"])
async def test_partitions(feed: Feed) -> None:
    """Each partition is a feed of its own; a position says which one it is of."""
    await feed.deliver(*(delivery(f"u{n}") for n in range(12)))
    found = [one for n in range(4) for one in await feed.ids(partition=f"{n}")]
    assert len(set(found)) == 12
    begin = found[0].replace(":1", ":0")
    assert await feed.ids(after=begin) == await feed.ids(partition=begin[0])
    for query, names in (
        ({}, ["partition"]),
        ({"partition": "4"}, ["partition"]),
        ({"partition": "1", "after": "0:0"}, ["partition"]),
        ({"after": "4:0"}, ["after"]),
    ):
        status, problem = await feed.get(**query)
        assert status == 400
        assert [error["parameter"] for error in problem["errors"]] == names


async def test_long_polling(feed: Feed) -> None:
    """With `wait_s` an empty page waits for the next event, of whatever process."""
    assert await feed.ids() == []
    waiting = asyncio.create_task(feed.ids(wait_s="60"))
    await asyncio.sleep(0)
    await feed.deliver(delivery(at_ms=1))
    assert await waiting == ["0:1"]
    tail = asyncio.create_task(feed.ids(wait_s="60", after="0:1"))
    await asyncio.sleep(0)
    await feed.deliver(delivery(at_ms=2))
    assert await tail == ["0:2"]


async def test_stream(feed: Feed) -> None:
    """A stream sends what is there and what comes, and goes on after what was read."""
    await feed.deliver(delivery(at_ms=1), delivery(at_ms=2))
    async with feed.stream() as response:
        first = await _events(response, 2)
        await feed.deliver(delivery(kind="delete", at_ms=3))
        (last,) = await _events(response, 1)
    assert [_at(one) for one in (*first, last)] == ["0:1", "0:2", "0:3"]
    assert (last["event"], msgspec.json.decode(last["data"])["id"]) == ("user.deleted", "0:3")
    await feed.deliver(delivery(at_ms=4))
    async with feed.stream(**{"Last-Event-ID": "0:2"}) as response:
        assert [_at(one) for one in await _events(response, 2)] == ["0:3", "0:4"]
    async with feed.stream(**{"Last-Event-ID": last["id"]}) as response:
        assert [_at(one) for one in await _events(response, 1)] == ["0:4"]
    answer = await feed.service.call("GET", "/v1/events", headers={**STREAM, "Last-Event-ID": "x"})
    assert answer.status == 400


async def test_signs_of_life(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing comes, a stream sends a comment now and then."""
    monkeypatch.setattr(feed_module, "_HEARTBEAT_S", 0.01)
    async with feed.stream() as response, asyncio.timeout(PATIENCE_S):
        assert (await response.content.readuntil(b"\n\n")).startswith(b"retry: ")
        for _ in range(3):
            assert await response.content.readuntil(b"\n\n") == b":\n\n"


async def test_a_reader_who_reads_nothing(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes nothing is let go after a while, and holds up nobody meanwhile."""
    monkeypatch.setattr(feed_module, "_SLOW_S", 0.2)
    for n in range(60):
        await feed.deliver(delivery(at_ms=n, blob="x" * 200_000))
    assert len(await feed.ids(limit="1")) == 1
    server = feed.service.runner.server
    assert server
    others = len(server.connections)
    reader, writer = await feed.service.connect()
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n"
        b"Accept: text/event-stream\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"retry: ")
        assert len(await feed.ids(limit="1000")) == 20, "four mebibytes"
        await until(lambda: len(server.connections) <= others)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_no_page_is_read_for_who_has_left(
    feed: Feed, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for many pages and leaves holds up no other reader."""
    read: list[int] = []
    await feed.deliver(*(delivery(at_ms=n) for n in range(7)))
    page_after = EventLog.page_after

    async def counted(
        log: EventLog, after: Position, limit: int, bytes_max: int
    ) -> list[asyncpg.Record]:
        read.append(limit)
        return await page_after(log, after, limit, bytes_max)

    monkeypatch.setattr(EventLog, "page_after", counted)
    async with holding(stack.url, "LOCK TABLE userlog.events IN ACCESS EXCLUSIVE MODE"):
        first = asyncio.create_task(feed.get(limit="50"))
        await until(lambda: read)
        leave = [asyncio.create_task(feed.get(limit=f"{n}")) for n in range(1, 6)]
        server = feed.service.runner.server
        assert server is not None
        await until(lambda: server.requests_count == 1 + len(leave))
        for one in leave:
            one.cancel()
        await until(lambda: len(server.connections) == 1)
        last = asyncio.create_task(feed.get(limit="7"))
        await until(lambda: server.requests_count == 2 + len(leave))
    assert [(await one)[0] for one in (first, last)] == [200, 200]
    assert read == [50, 7]


async def test_the_service_stops(database_url: str) -> None:
    """A service that stops ends its streams at once."""
    async with contextlib.AsyncExitStack() as stack, ClientSession() as session:
        serve = serving(database_url, shutdown_timeout_s=60)
        service = await stack.enter_async_context(serve)
        async with session.get(f"{service.base}/v1/events", headers=STREAM) as response:
            await response.content.readuntil(b"\n\n")
            async with asyncio.timeout(10):  # less than it waits for requests in flight
                await stack.aclose()


async def test_the_database_goes_away(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends when the database goes away, to be taken up again; a page says 503."""
    monkeypatch.setattr(feed_module, "_HEARTBEAT_S", 0.05)
    async with (
        proxied(database_url) as proxy,
        serving(proxy.url, database_timeout_s=5) as service,
    ):
        feed = Feed(service)
        await feed.deliver(delivery())
        async with feed.stream() as response:
            await _events(response, 1)
            proxy.cut()
            async with asyncio.timeout(PATIENCE_S):
                await response.content.read()
            assert (await feed.get())[0] == 503
            proxy.restore()
        async with feed.stream() as response:
            await _events(response, 1)


async def test_waiting_begins_again_after_a_defect(stack: Stack) -> None:
    """An end of the log that could not be read, for whatever reason, is read later."""
    tail = feed_module.Tail(stack.log)
    await stack.admin.execute("REVOKE SELECT ON userlog.log_head FROM userlog_app")
    first = asyncio.create_task(tail.beyond(Position(0, 0), PATIENCE_S))
    await until(lambda: tail._waiting and tail._task is None)
    await stack.admin.execute("GRANT SELECT ON userlog.log_head TO userlog_app")
    await stack.ingest.deliver(delivery())
    assert await tail.beyond(Position(0, 0), PATIENCE_S)
    assert await first
    await tail.close()


# Back to the third event, as after a restore to an earlier moment.
RESTORED = """
SET session_replication_role = replica;
DELETE FROM userlog.events WHERE position > 3;
UPDATE userlog.log_head h SET position = e.position, chain = e.chain, recorded_at = e.recorded_at
FROM userlog.events e WHERE e.position = 3;
"""


def _waiting() -> int:
    """Count those who wait for the end of the log to move."""
    waiting = (task.get_coro() for task in asyncio.all_tasks())
    names = [getattr(one, "__qualname__", "") for one in waiting]
    return names.count("Tail.beyond") + names.count("Feed._next_page")


async def restored(stack: Stack) -> None:
    """Bring the log back to its third event."""
    async with connected(stack.url) as admin:
        await admin.execute(RESTORED)


async def test_a_restored_log_has_other_places(feed: Feed, stack: Stack) -> None:
    """Who follows by page, long poll or stream gets 409 before an event is missed."""
    await feed.deliver(*(delivery(at_ms=n) for n in range(5)))
    _, page = await feed.get()
    place = page["next"]
    assert place.startswith("0:5-")
    _, empty = await feed.get(after="0:5")
    assert empty["next"] == place, "a plain position gets its piece"
    _, before = await feed.get(limit="3")
    async with feed.stream(**{"Last-Event-ID": place}) as stream:
        poll = asyncio.create_task(feed.get(after=place, wait_s="60"))
        await until(lambda: _waiting() == 2)
        await restored(stack)
        status, problem = await feed.get(after=place)
        assert (status, problem["title"]) == (409, "Place lost")
        assert "it goes up to 0:3" in problem["detail"]
        assert (await feed.get(after="0:5"))[0] == 409
        await feed.deliver(*(delivery(at_ms=n, again=1) for n in range(10, 16)))
        assert (await poll)[0] == 409
        async with asyncio.timeout(PATIENCE_S):
            rest = await stream.content.read()
        assert b"data:" not in rest
    for after in (place, "0:4-00000000", "0:3-00000000", "0:10"):
        assert (await feed.get(after=after))[0] == 409
    answer = await feed.service.call(
        "GET", "/v1/events", headers={**STREAM, "Last-Event-ID": place}
    )
    assert answer.status == 409
    assert await feed.ids(after=before["next"]) == [f"0:{n}" for n in range(4, 10)]


@pytest.mark.parametrize("place", ["0:1-", "0:1-9f86d08", "0:1-9f86d0811", "0:1-9F86D081", "0-1:1"])
async def test_what_is_no_place(feed: Feed, place: str) -> None:
    """It is refused by its name."""
    status, problem = await feed.get(after=place)
    assert (status, problem["errors"][0]["parameter"]) == (400, "after")
