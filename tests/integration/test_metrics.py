"""What a monitoring system reads, from a running service."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from api.app import make_app
from api.runtime import opened
from api.secret_files import Secrets
from api.settings import Settings
from api.signatures import HEADER, sign
from projections.projector import catch_up
from tests.conftest import MASTER_KEY
from tests.integration.support import APP, SAMPLE_USER, SAMPLES, delivery, proxied

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from api.runtime import Runtime

SECRETS = Secrets(["secret"], MASTER_KEY, None, "token", [])
AUTH = {"Authorization": "Bearer token"}
USER = "/v1/applications/{application_id}/users/{user_id}"


class Client:
    """A service, and who asks it."""

    def __init__(self, runtime: Runtime, session: ClientSession) -> None:
        self.runtime = runtime
        self.session = session

    async def post(self, body: bytes, secret: str = SECRETS.webhook_secrets[0]) -> int:
        headers = {HEADER: sign(body, secret)}
        async with self.session.post("/webhooks/fynd", data=body, headers=headers) as response:
            return response.status

    async def text(self, path: str = "/metrics") -> str:
        async with self.session.get(path, headers=AUTH) as response:
            assert response.status == 200
            return await response.text()

    async def metrics(self) -> dict[tuple[str, ...], float]:
        """Return each sample by its name and the values of its labels, sorted by their names."""
        families = text_string_to_metric_families(await self.text())
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@contextlib.asynccontextmanager
async def serving(url: str) -> AsyncGenerator[Client]:
    """Serve on a free port."""
    async with opened(Settings(database_url=url, database_timeout_s=2), SECRETS) as runtime:
        runner = web.AppRunner(make_app(runtime, SECRETS), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield Client(runtime, session)
        await runner.cleanup()


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with serving(database_url) as running:
        yield running


async def test_what_came_and_what_became_of_it(client: Client) -> None:
    """Deliveries, events and answers are counted by outcome, batches by size and time."""
    for body in (*SAMPLES, SAMPLES[0], b"{", b'{"event": {"name": "cart"}}'):
        assert await client.post(body) == 200
    assert await client.post(SAMPLES[0], "wrong") == 401
    found = await client.metrics()
    names = ("taken", "quarantined", "ignored")
    assert [found["userlog_deliveries_total", n] for n in names] == [4, 1, 1]
    assert found["userlog_events_total", "accepted"] == 3
    assert found["userlog_events_total", "duplicate"] == 1
    seconds = "userlog_http_request_seconds_count"
    assert [found[seconds, "/webhooks/fynd", n] for n in ("200", "401")] == [6, 1]
    assert found["userlog_append_events_count",] == found["userlog_append_seconds_count",] == 4
    assert found["userlog_append_events_sum",] == 4
    assert found["userlog_quarantine_deliveries",] == 1
    assert found["userlog_queue_events",] == 0


async def test_how_far_everything_is(client: Client) -> None:
    """The head, the lag and who is set aside are those of the database, at every look."""
    for n in range(3):
        await client.post(delivery(at_ms=n))
    found = await client.metrics()
    assert found["userlog_log_head_position", "0"] == 3
    assert found["userlog_projection_lag_events", "answers", "0"] == 3
    assert found["userlog_projection_lag_seconds", "answers", "0"] > 0
    await catch_up(client.runtime.log, 10)
    found = await client.metrics()
    assert found["userlog_projection_lag_events", "answers", "0"] == 0
    assert found["userlog_set_aside_users",] == found["userlog_rebuild_running",] == 0
    assert found["userlog_database_up",] == 1
    assert ("userlog_scrubbed_users",) not in found
    await client.runtime.scrubber.look()
    found = await client.metrics()
    assert (found["userlog_scrubbed_users",], found["userlog_scrub_differences",]) == (1, 0)


async def test_database_away(database_url: str) -> None:
    """While the database is away the metrics say so, and what the process knows by itself."""
    async with proxied(database_url) as proxy, serving(proxy.url) as client:
        await client.post(SAMPLES[0])
        proxy.cut()
        found = await client.metrics()
        assert found["userlog_database_up",] == 0
        assert found["userlog_events_total", "accepted"] == 1
        assert not any(name.startswith("userlog_projection") for name, *_ in found)


async def test_nobody_is_named(client: Client) -> None:
    """No label has an id, and paths appear as patterns."""
    await client.post(SAMPLES[0])
    await catch_up(client.runtime.log, 10)
    await client.text(f"/v1/applications/{APP}/users/{SAMPLE_USER}")
    text = await client.text()
    assert USER in text
    for secret in (APP, SAMPLE_USER, "salman", "Salman", "8285462419", "token"):
        assert secret not in text
