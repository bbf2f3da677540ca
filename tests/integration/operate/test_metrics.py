"""What a monitoring system reads, from a running service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from eventstore.verify.whole import verify
from projections.project.projector import catch_up
from tests.support.database import alter
from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES, delivery
from tests.support.monitoring import (
    DASHBOARD,
    RULES,
    metrics,
    names_in,
    run,
    tool,
)
from tests.support.proxy import proxied
from tests.support.serving import serving
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Stack
    from tests.support.serving import Service

USER = "/v1/applications/{application_id}/users/{user_id}"


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def test_what_came_and_what_became_of_it(client: Service) -> None:
    """Deliveries, events and answers are counted by outcome, batches by size and time."""
    for body in (*SAMPLES, SAMPLES[0], b"{", b'{"event": {"name": "cart"}}'):
        assert (await client.post(body)).status == 200
    assert (await client.post(SAMPLES[0], "wrong")).status == 401
    found = await metrics(client)
    names = ("taken", "quarantined", "ignored")
    assert [found["userlog_deliveries_total", n] for n in names] == [4, 1, 1]
    assert found["userlog_events_total", "accepted"] == 3
    assert found["userlog_events_total", "duplicate"] == 1
    seconds = "userlog_http_request_duration_seconds_count"
    assert [found[seconds, "/webhooks/fynd", n] for n in ("200", "401")] == [6, 1]
    batches = "userlog_append_batch_events"
    assert found[f"{batches}_count",] == found["userlog_append_duration_seconds_count",] == 4
    assert found[f"{batches}_sum",] == 4
    assert found["userlog_quarantine_deliveries",] == 1
    assert 300 < found["userlog_quarantine_bytes",] < 1_000
    assert found["userlog_quarantine_limit_bytes",] == 10_000_000_000
    assert found["userlog_quarantine_newest_timestamp_seconds",] > 1e9
    assert (found["userlog_queue_events",], found["userlog_queue_limit_events",]) == (0, 10_000)
    assert found["userlog_database_connections", "idle"] >= 1
    assert found["userlog_database_connections_limit",] == 10


async def test_what_was_refused(database_url: str) -> None:
    """Each delivery that was not taken is counted by its reason, from the first on."""
    name = "userlog_deliveries_refused_total"
    async with (
        proxied(database_url) as proxy,
        serving(proxy.url, body_bytes_max=100) as client,
    ):
        reasons = {key[1]: n for key, n in (await metrics(client)).items() if key[0] == name}
        assert set(reasons.values()) == {0}
        assert (await client.post(SAMPLES[0])).status == 413
        assert (await client.post(b"{", "wrong")).status == 401
        head = b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n"
        status, _ = await client.raw(head + b"Content-Encoding: gzip\r\n", b"not gzip")
        assert status == 415
        _, writer = await client.connect()
        writer.write(head + b"\r\n{")
        writer.close()

        async def refused() -> bool:
            return (await metrics(client))[name, "incomplete"] == 1

        await until(refused)
        proxy.cut()
        assert (await client.post(b"{")).status == 503
        found = await metrics(client)
    once = {"too-large", "signature", "encoded", "incomplete", "unavailable"}
    assert {reason for reason in reasons if found[name, reason]} == once


async def test_how_far_everything_is(client: Service) -> None:
    """The head, the lag and who is parked are those of the database, at every look."""
    for n in range(3):
        await client.post(delivery(at_ms=n))
    found = await metrics(client)
    assert found["userlog_log_head_position", "0"] == 3
    assert found["userlog_projection_lag_events", "answering", "0", "users"] == 3
    assert found["userlog_projection_lag_seconds", "answering", "0", "users"] > 0
    await catch_up(client.runtime.log, 10)
    found = await metrics(client)
    assert found["userlog_projection_lag_events", "answering", "0", "users"] == 0
    assert found["userlog_parked_users",] == found["userlog_rebuild_running",] == 0
    assert found["userlog_database_up",] == 1
    assert found["userlog_scrub_timestamp_seconds",] == 0
    await client.scrubber.scrub_some()
    found = await metrics(client)
    totals = ("userlog_scrub_users_total", "userlog_scrub_differences_total")
    assert [found[name,] for name in totals] == [1, 0]
    assert found["userlog_scrub_timestamp_seconds",] > 1e9
    assert found["userlog_scrub_difference_timestamp_seconds",] == 0


async def test_what_was_verified(client: Service, stack: Stack) -> None:
    """The outcome of `userlog verify` is seen by the service, whoever ran it."""
    await client.post(delivery())
    found = await metrics(client)
    assert found["userlog_verification_timestamp_seconds", "0"] == 0
    assert ("userlog_verification_passed", "0") not in found
    for passed in (1, 0):
        await verify(stack.log, notes=[], progress=lambda _done, _total: None)
        found = await metrics(client)
        assert found["userlog_verification_timestamp_seconds", "0"] > 1e9
        assert found["userlog_verification_position", "0"] == 1
        assert found["userlog_verification_passed", "0"] == passed
        await alter(stack, 1)


async def test_database_away(database_url: str) -> None:
    """While the database is away the metrics say so, and what the process knows by itself."""
    async with proxied(database_url) as proxy, serving(proxy.url) as client:
        await client.post(SAMPLES[0])
        proxy.cut()
        found = await metrics(client)
        assert found["userlog_database_up",] == 0
        assert found["userlog_events_total", "accepted"] == 1
        assert not any(name.startswith("userlog_projection") for name, *_ in found)


async def test_no_user_is_named(client: Service) -> None:
    """No label has an id, and paths appear as patterns."""
    await client.post(SAMPLES[0])
    await catch_up(client.runtime.log, 10)
    await client.text(f"/v1/applications/{APP}/users/{SAMPLE_USER}")
    text = await client.text("/metrics")
    assert USER in text
    for secret in (APP, SAMPLE_USER, "salman", "Salman", "8285462419", "token"):
        assert secret not in text


async def test_rules_and_dashboard_ask_for_what_is_there(client: Service) -> None:
    """No alert and no panel waits for a metric that nobody shows."""
    await client.post(SAMPLES[0])
    await verify(client.runtime.log, notes=[], progress=lambda _done, _total: None)
    shown = {name for name, *_ in await metrics(client)}
    # Only where the database is the embedded one: tests/acceptance/test_alerts.py.
    shown |= {"userlog_data_dir_size_bytes", "userlog_data_dir_free_bytes"}
    asked = {name for path in (RULES, DASHBOARD) for name in names_in(path.read_text())}
    assert len(asked) > 20
    assert asked - shown == set()


async def test_names(client: Service) -> None:
    """Prometheus's own tool finds nothing to say about names, help and units."""
    await client.post(SAMPLES[0])
    shown = await client.text("/metrics")
    assert await run(tool("promtool"), "check", "metrics", stdin=shown) == ""


async def test_dashboard_expressions(tmp_path: Path) -> None:
    """Prometheus can read what each panel asks for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", [])]
    asked = [target["expr"].replace("$__rate_interval", "5m") for target in targets]
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(asked)]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in await run(tool("promtool"), "check", "rules", str(path))
