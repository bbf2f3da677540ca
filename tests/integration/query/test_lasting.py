"""Requests that last, and what there may be at once of each kind."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from api.config.secret_files import Secrets
from api.web.tokens import Scope, Tokens
from eventstore.sealing.keys import MasterKey
from tests.conftest import MASTER_KEY
from tests.support.database import holding
from tests.support.deliveries import APP, delivery
from tests.support.proxy import proxied
from tests.support.serving import AUTH, Answer, Service, assert_problem, serving
from tests.support.waiting import PATIENCE_S, meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from aiohttp import ClientResponse

    from tests.conftest import Stack

FAR = "0:99999999"


class Tenant(NamedTuple):
    """Somebody with a token of their own."""

    service: Service
    tokens: Tokens
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What shows the token."""
        return {"Authorization": f"Bearer {self.token}"}

    async def get(self, path: str, **query: str) -> Answer:
        """Ask with it."""
        return await self.service.call("GET", path, params=query, headers=self.headers)

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncGenerator[ClientResponse]:
        """Follow the log."""
        headers = {**self.headers, "Accept": "text/event-stream"}
        async with self.service.client.get("/v1/events", headers=headers) as response:
            yield response

    async def wait(self, path: str, **query: str) -> Answer:
        """Ask for what has to be waited for, again while there is no place for it."""

        async def answered() -> Answer | None:
            answer = await self.get(path, **query)
            return None if answer.status == 429 else answer

        return await until(answered)

    async def full(self) -> Answer:
        """Return the refusal once all places of this token are taken."""

        async def refused() -> Answer | None:
            answer = await self.get("/v1/events", wait_s="1")
            return answer if answer.status == 429 else None

        return await until(refused)

    async def revoke(self) -> None:
        """Revoke the token."""
        assert await self.tokens.revoke(self.token.split("_")[1])


@contextlib.asynccontextmanager
async def tenant(stack: Stack, service: Service, *applications: str) -> AsyncGenerator[Tenant]:
    """Make a token, for reading."""
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    token = await Tokens(stack.admin, MasterKey(MASTER_KEY)).create(
        "x", [Scope.READ], list(applications) or None
    )
    yield Tenant(service, tokens, token)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service where little may happen at once."""
    few: dict[str, Any] = {"deliveries_max": 1, "reads_max": 5, "waits_max": 3, "streams_max": 3}
    per_token: dict[str, Any] = {
        "waits_per_token_max": 2,
        "streams_per_token_max": 2,
        "wait_timeout_s": PATIENCE_S,
    }
    async with serving(database_url, **few, **per_token) as running:
        yield running


async def test_streams_of_one_token(stack: Stack, service: Service) -> None:
    """One token can't have all streams, and has its place back when a reader has gone."""
    async with tenant(stack, service) as one, tenant(stack, service) as other:
        async with one.stream() as first, one.stream() as second, one.stream() as third:
            assert (first.status, second.status, third.status) == (200, 200, 429)
            assert third.headers["Retry-After"]
            async with other.stream() as its, other.stream() as too_many:
                assert (its.status, too_many.status) == (200, 503)
                assert (await service.post(delivery())).body["accepted"] == 1
                assert (await one.get("/v1/status")).status == 200

        async def has_place() -> bool:
            async with one.stream() as again, one.stream() as both:
                return (again.status, both.status) == (200, 200)

        await until(has_place)


async def test_nothing_is_read_for_a_refused_stream(stack: Stack, service: Service) -> None:
    """A stream that there is no place for is refused before the log is read for it."""
    async with tenant(stack, service) as one, one.stream() as first, one.stream() as second:
        assert (first.status, second.status) == (200, 200)
        lock = "LOCK TABLE userlog.events IN ACCESS EXCLUSIVE MODE"
        async with holding(stack.url, lock), asyncio.timeout(PATIENCE_S), one.stream() as third:
            assert third.status == 429


async def test_waits_of_one_token(stack: Stack, service: Service) -> None:
    """Who waits takes no place of those who don't, and one token can't have all."""
    async with tenant(stack, service) as one, tenant(stack, service) as other:
        user = f"/v1/applications/{APP}/users/u"
        waiting = [
            asyncio.create_task(one.wait(user, min_position="0:2")),
            asyncio.create_task(one.wait("/v1/events", wait_s="60")),
        ]
        assert_problem(await one.full(), 429)
        waiting.append(asyncio.create_task(other.get("/v1/events", wait_s="60")))
        assert (await service.post(delivery("u"))).body["accepted"] == 1
        assert (await waiting[1]).body["events"]
        assert (await waiting[2]).body["events"]
        assert (await service.post(delivery("u", at_ms=1))).body["accepted"] == 1
        await service.catch_up()
        assert (await waiting[0]).status == 200


async def test_who_has_gone_waits_no_longer(stack: Stack, service: Service) -> None:
    """A place is free again as soon as its reader has left."""
    async with tenant(stack, service) as one:
        for _ in range(3):
            waiting = [asyncio.create_task(one.wait("/v1/events", wait_s="60")) for _ in range(2)]
            await one.full()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert (await one.wait("/v1/events", wait_s="1")).status == 200


async def test_a_position_that_is_not_in_the_log(stack: Stack, service: Service) -> None:
    """A token of some applications does not wait for it, one of all may."""
    async with tenant(stack, service, APP) as one:
        answers = [one.get(f"/v1/applications/{APP}/users/u", min_position=FAR) for _ in range(2)]
        for answer in await asyncio.gather(*answers):
            assert_problem(answer, 503)
            assert answer.body["detail"] == f"the read model has not reached {FAR}; ask again"


async def test_a_revoked_stream_ends(stack: Stack, service: Service) -> None:
    """A stream and a long poll end when their token is revoked, and bring nothing from after it."""
    async with tenant(stack, service) as one, one.stream() as stream:
        await service.post(delivery("before"))
        while b"before" not in await stream.content.readline():
            pass
        poll = asyncio.create_task(one.get("/v1/events", after="0:1", wait_s="60"))
        wait = asyncio.create_task(one.get(f"/v1/applications/{APP}/users/u", min_position="0:50"))
        await one.revoke()
        async with asyncio.timeout(PATIENCE_S):
            rest = await stream.read()
        assert b"data:" not in rest
        assert_problem(await poll, 401)
        assert_problem(await wait, 401)


async def test_a_revoked_stream_ends_while_a_page_is_read(stack: Stack) -> None:
    """A stream whose next page takes long does not wait for it when its token is revoked."""
    slow = 2 * PATIENCE_S
    async with (
        serving(stack.url, database_timeout_s=slow) as service,
        tenant(stack, service) as one,
        one.stream() as stream,
    ):
        await service.post(delivery("before"))
        while b"before" not in await stream.content.readline():
            pass
        async with holding(stack.url, "LOCK TABLE userlog.events IN ACCESS EXCLUSIVE MODE"):
            await one.revoke()
            async with asyncio.timeout(PATIENCE_S):
                assert b"data:" not in await stream.read()


async def test_the_configured_token_is_replaced(database_url: str) -> None:
    """So does a stream of the configured token when another one is read at SIGHUP."""
    secrets = Secrets(["secret"], MASTER_KEY, None, "one token", [])
    headers = {"Authorization": "Bearer one token", "Accept": "text/event-stream"}
    async with (
        serving(database_url, secrets=secrets) as service,
        service.client.get("/v1/events", headers=headers) as stream,
    ):
        assert stream.status == 200
        secrets.api_token = "another token"
        async with asyncio.timeout(PATIENCE_S):
            await stream.read()


async def test_a_poll_while_the_database_is_away(stack: Stack) -> None:
    """Who begins to wait then gets 503, also while others wait since before."""
    async with proxied(stack.url) as proxy, serving(proxy.url) as service:
        path = "/v1/events?after=0:0&wait_s={}"
        async with meanwhile(service.call("GET", path.format(60), headers=AUTH)):

            async def status() -> int:
                return (await service.call("GET", path.format(1), headers=AUTH)).status

            assert await status() == 200  # by then the other one waits
            proxy.cut()

            async def refused() -> bool:
                return await status() == 503

            await until(refused)
        proxy.restore()
