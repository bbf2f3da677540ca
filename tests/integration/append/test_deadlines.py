"""Nobody waits for longer than the deadline, whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import hdrs

from eventstore import log
from eventstore.postgres import failover
from tests.support.database import HEADS, holding
from tests.support.deliveries import APP, SAMPLE_USER, delivery
from tests.support.proxy import proxied
from tests.support.serving import AUTH, assert_problem, serving
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from tests.conftest import Stack
    from tests.support.serving import Answer, Service

_SHORT_S = 0.3
USER = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
_FULL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON userlog.events FOR EACH ROW EXECUTE FUNCTION refuse()
"""


async def taken(service: Service, body: bytes) -> Answer:
    """Deliver until it is taken, as the platform does; nothing but 503 may be answered before."""

    async def deliver() -> Answer | None:
        answer = await service.post(body)
        if answer.status != 200:
            assert_problem(answer, 503)
        return answer if answer.status == 200 else None

    return await until(deliver)


async def test_a_database_that_hangs(database_url: str, stack: Stack) -> None:
    """When the database takes everything and answers nothing, requests are refused for now."""
    async with proxied(database_url) as proxy:  # noqa: SIM117 - one after the other
        async with serving(proxy.url, request_timeout_s=_SHORT_S) as service:
            assert (await taken(service, delivery("a"))).body["accepted"] == 1
            proxy.deaf = True
            asked = await asyncio.gather(
                service.post(delivery("a")),
                service.post(delivery("new")),
                service.get(USER),
                service.get("/v1/status"),
                service.call("GET", "/health/ready"),
                *(service.get(USER) for _ in range(20)),  # more than there are connections
            )
            for answer in asked:
                assert_problem(answer, 503)
                assert int(answer.headers["retry-after"]) > 0
            assert (await service.call("GET", "/health/live")).status == 200
            proxy.deaf = False
            proxy.cut()
            proxy.restore()
            assert (await taken(service, delivery("b"))).body["positions"] == ["0:2"]


async def test_a_delivery_that_had_to_be_refused(database_url: str) -> None:
    """What was answered with 503 at its deadline is in the log once, when it was sent again."""
    async with serving(database_url, request_timeout_s=_SHORT_S) as service:
        async with holding(database_url, HEADS):
            assert_problem(await service.post(delivery("a")), 503)
        assert (await taken(service, delivery("a"))).body["positions"] == ["0:1"]


@pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
async def test_a_limit_of_the_database(database_url: str, stack: Stack, limit: str) -> None:
    """What the database itself gives up waiting for is refused for now, and not lost."""
    name = urlsplit(database_url).path.removeprefix("/")
    await stack.admin.execute(f"ALTER DATABASE {name} SET {limit} = '1s'")
    async with serving(database_url) as service:
        async with holding(database_url, HEADS):
            assert_problem(await service.post(delivery("a")), 503)
        answer = await service.post(delivery("a"))
        assert (answer.status, answer.body["positions"]) == (200, ["0:1"])


async def test_a_full_disk(database_url: str, stack: Stack) -> None:
    """While the database has no room deliveries are refused, for now; then they are taken.

    It is not ready then, though it answers questions.
    """
    async with serving(database_url) as service:
        await stack.admin.execute(_FULL)
        refused = await asyncio.gather(*(service.post(delivery(f"u{n}")) for n in range(20)))
        for answer in refused:
            assert_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
            assert "space" not in answer.body["detail"], "what the database says may quote data"
        assert_problem(await service.call("GET", "/health/ready"), 503)
        assert (await service.get("/v1/status")).status == 200
        await stack.admin.execute("DROP TRIGGER full_disk ON userlog.events")
        taken = await asyncio.gather(*(service.post(delivery(f"u{n}")) for n in range(20)))
        assert sorted(int(one.body["positions"][0].removeprefix("0:")) for one in taken) == [
            *range(1, 21)
        ]
        assert (await service.call("GET", "/health/ready")).status == 200


async def test_after_a_full_disk(
    database_url: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready again after a while, so that somebody sends a delivery."""
    monkeypatch.setattr(log, "_UNREADY_S", 0.2)
    async with serving(database_url) as service:
        await stack.admin.execute(_FULL)
        assert_problem(await service.post(delivery("u")), 503)
        assert_problem(await service.call("GET", "/health/ready"), 503)

        async def ready() -> bool:
            return (await service.call("GET", "/health/ready")).status == 200

        await until(ready)


async def test_a_body_that_does_not_come(database_url: str) -> None:
    """Who promises a body and does not send it is told so, and the connection ends."""
    async with serving(database_url, request_timeout_s=_SHORT_S) as service:
        head = b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        reader, writer = await service.connect()
        writer.write(head)
        answer = await reader.read()
        assert b" 408 " in answer.split(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()


async def test_who_was_asked_to_wait(database_url: str) -> None:
    """A long poll has the time it asked for, and a stream has no end."""
    async with serving(database_url, request_timeout_s=_SHORT_S) as service:
        poll = asyncio.create_task(service.get("/v1/events", wait_s="30"))
        accept = {**AUTH, hdrs.ACCEPT: "text/event-stream"}
        async with service.client.get("/v1/events", headers=accept) as stream:
            async with holding(database_url, HEADS):
                assert_problem(await service.post(delivery("a")), 503)  # longer than the deadline
            await service.post(delivery("b"))
            async with asyncio.timeout(PATIENCE_S):
                while b"event: user" not in await stream.content.readline():
                    pass
        assert (await poll).body["events"]


async def test_the_first_of_several_hosts_hangs(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that takes connections and says nothing does not keep the others from being asked."""
    monkeypatch.setattr(failover, "HOST_TIMEOUT_S", _SHORT_S)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as hanging:
        async with proxied(database_url) as proxy:
            there = urlsplit(proxy.url)
            user, _, host = there.netloc.rpartition("@")
            first = f"127.0.0.1:{hanging.getsockname()[1]}"
            gone = "127.0.0.1:9"
            url = there._replace(netloc=f"{user}@{first},{gone},{host}").geturl()
            async with serving(url) as service:
                assert (await service.post(delivery("a"))).body["accepted"] == 1
                proxy.cut()
                assert_problem(await service.post(delivery("b")), 503)
                proxy.restore()
                assert (await taken(service, delivery("b"))).body["accepted"] == 1
