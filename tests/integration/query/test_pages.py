"""A page ends when it has so many bytes, and `next` goes on, in every answer that has pages."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from eventstore.events import Place
from projections.query.users import FOREVER
from tests.support.database import statement
from tests.support.deliveries import APP, delivery
from tests.support.serving import AUTH, serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.conftest import Stack
    from tests.support.serving import Service

TEXT = "x" * 20_000
COUNT = 12
USERS = f"/v1/applications/{APP}/users"


async def pages(client: Service, path: str, name: str) -> list[list[Any]]:
    """Follow `next` to the end; return what is on each page."""
    found: list[list[Any]] = []
    query: dict[str, str] = {}
    while not found or (query["after"] and found[-1]):
        answer = await client.get(path, limit="100", **query)
        assert answer.status == 200
        found.append(answer.body[name])
        query = {"after": answer.body["next"] or ""}
    return [page for page in found if page]


async def test_pages_end_early(database_url: str) -> None:
    """Three texts of 20,000 bytes fit on a page of 70,000, wherever they are shown."""
    async with serving(database_url, page_bytes_max=70_000) as client:
        for n in range(COUNT):
            assert (await client.post(delivery("u", at_ms=n, **{f"n{n}": TEXT}))).status == 200
            assert (await client.post(delivery(f"u{n}", at_ms=n, note=TEXT))).status == 200
        await client.catch_up()
        listed = await pages(client, USERS, "users")
        assert [len(page) for page in listed] == [1, 1, 3, 3, 3, 2], "the second is alone larger"
        assert {u["user_id"] for page in listed for u in page} == {
            "u",
            *(f"u{n}" for n in range(COUNT)),
        }
        for query in ("", "?known_at=2100-01-01T00:00:00Z"):
            history = await pages(client, f"{USERS}/u/history{query}", "entries")
            assert [len(page) for page in history] == [3] * 4
            assert [entry["changes"][-1]["field"] for page in history for entry in page] == [
                f"extra.n{n}" for n in range(COUNT)
            ]
        feed = await pages(client, "/v1/events", "events")
        assert [len(page) for page in feed] == [3] * 8
        assert [one["id"] for page in feed for one in page] == [f"0:{n + 1}" for n in range(24)]


async def test_a_stream_goes_on(database_url: str) -> None:
    """A stream has every event once, however few are read at once."""
    async with serving(database_url, page_bytes_max=1) as client:
        for n in range(5):
            await client.post(delivery("u", at_ms=n))
        headers = {**AUTH, "Accept": "text/event-stream"}
        async with client.client.get("/v1/events", headers=headers) as stream:
            ids: list[str] = []
            async with asyncio.timeout(PATIENCE_S):
                while len(ids) < 5:
                    block = (await stream.content.readuntil(b"\n\n")).decode()
                    ids += [x.removeprefix("id: ") for x in block.splitlines() if x[:3] == "id:"]
    assert [str(Place.parse(one).position) for one in ids] == [f"0:{n + 1}" for n in range(5)]


LARGE = """
INSERT INTO userlog.history (partition, generation, stream_id, tie_break, position, kind,
    occurred_at, recorded_at, late, lifecycle_before, lifecycle_after, sealed)
SELECT 0, 1, $1, int4send(n), n, 2, 'epoch', 'epoch', false, 0, 1, (
    SELECT string_agg(decode(md5(random()::text), 'hex'), '')
    FROM generate_series(1, 6000) WHERE n > 0
) FROM generate_series(1, 100) n
"""


async def test_what_is_not_shown_is_not_read(stack: Stack) -> None:
    """Of a hundred long entries the database reads no more than a page has room for."""
    stream = stack.log.stream(APP, "u")
    await stack.admin.execute(
        "INSERT INTO userlog.streams VALUES (0, $1, $2, 'u', 1, '')", stream.stream_id, APP
    )
    await stack.admin.execute(LARGE, stream.stream_id)
    args = (0, stream.stream_id, None, None, None, FOREVER, 101)
    async with stack.pool.acquire() as connection:
        asked = statement("history_asc")
        rows = await connection.fetch(asked, *args, 300_000)
        assert (len(rows), rows[0]["found"]) == (3, 100)
        explain = asked.replace("$8", "300000").replace("$7", "101").replace("$6", "'infinity'")
        explain = (
            explain.replace("$5", "NULL")
            .replace("$4", "NULL")
            .replace("$3", "NULL")
            .replace("$1", "0")
        )
        explain = explain.replace("$2", f"'{stream.stream_id}'")
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {explain}")
    (found,) = json.loads(plan)
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] < 50, plan
