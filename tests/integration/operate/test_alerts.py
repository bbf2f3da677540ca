"""Each alert of docs/alerts.yml is caused, and Prometheus's own rule engine says that it fires.

The faults are real, and what the service shows before and in the midst of each is scraped from its
socket. `monitoring.Timeline` says how the two scrapes become the hours that the rules ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.verify.whole import verify
from projections.fold.poison import PoisonError
from projections.project.projector import catch_up, project_batch
from projections.rebuild.rebuild import Plan, rebuild
from projections.tables import Generation
from tests.support.database import HEADS, alter, blocked, holding
from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES, delivery
from tests.support.monitoring import RULES, Timeline, assert_fires, scrape, tool
from tests.support.proxy import proxied
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.conftest import Stack
    from tests.support.monitoring import Scrape
    from tests.support.serving import Service

LONG = Timeline(lasts=90)
HOURS = Timeline(lasts=7 * 60)
DAYS = Timeline(step="1h", quiet=24, lasts=9 * 24)


def test_each_alert_is_caused_here() -> None:
    """No rule is without a test that names it, here or where a whole process is needed."""
    names = re.findall(r"- alert: (\w+)", RULES.read_text())
    here = Path(__file__)
    tests = here.read_text() + (here.parents[2] / "acceptance" / "test_alerts.py").read_text()
    assert len(names) > 15
    assert [name for name in names if f'"{name}"' not in tests] == []


@contextlib.asynccontextmanager
async def healthy(url: str, **settings: Any) -> AsyncGenerator[Service]:
    """Serve; everything has been delivered, projected, compared and verified."""
    tool("promtool")
    async with serving(url, **{"database_timeout_s": 2, **settings}) as client:
        for body in SAMPLES:
            assert (await client.post(body)).status == 200
        log = client.runtime.log
        await catch_up(log, 10)
        await client.scrubber.scrub_some()
        assert await verify(log, notes=[], progress=lambda _done, _total: None) == []
        yield client


async def test_nothing_fires_while_all_is_well(database_url: str, tmp_path: Path) -> None:
    """A service that takes deliveries and projects them causes no alert."""
    async with healthy(database_url) as client:
        before = await scrape(client)
        await client.post(delivery())
        await catch_up(client.runtime.log, 10)
        await assert_fires(tmp_path, before, await scrape(client), set(), HOURS)


@pytest.mark.parametrize("deaf", [False, True])
async def test_database_away(database_url: str, tmp_path: Path, deaf: bool) -> None:
    """A database that is gone, or does not answer, is told within the time of a scrape."""
    async with (
        proxied(database_url) as proxy,
        healthy(proxy.url, database_timeout_s=600) as client,
    ):
        before = await scrape(client)
        if deaf:
            proxy.deaf = True
        else:
            proxy.cut()
            assert (await client.post(delivery())).status == 503
        async with asyncio.timeout(PATIENCE_S):
            during = await scrape(client)
        proxy.cut()
    fire = {"UserlogDatabaseAway"} | (set() if deaf else {"UserlogDeliveriesTurnedAway"})
    await assert_fires(tmp_path, before, during, fire)


async def test_wrong_secret(database_url: str, tmp_path: Path) -> None:
    """Deliveries signed with a secret that is not ours."""
    async with healthy(database_url) as client:
        before = await scrape(client)
        assert (await client.post(SAMPLES[0], secret="another secret")).status == 401
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogSignaturesRefused"})


async def test_queue_full(stack: Stack, tmp_path: Path) -> None:
    """Appends that don't come through, so that no more can wait."""
    async with healthy(stack.url, queue_rows_max=1) as client:
        before = await scrape(client)
        async with holding(stack.url, HEADS):
            waiting = asyncio.create_task(client.post(delivery(at_ms=1)))
            await blocked(stack.admin)
            assert (await client.post(delivery(at_ms=2))).status == 503
            during = await scrape(client)
        assert (await waiting).status == 200
    fire = {"UserlogQueueFilling", "UserlogDeliveriesTurnedAway"}
    await assert_fires(tmp_path, before, during, fire)


async def test_slow_appends(stack: Stack, tmp_path: Path) -> None:
    """A database that takes more than a second to append."""
    async with healthy(stack.url, database_timeout_s=30) as client:
        before = await scrape(client)
        async with holding(stack.url, HEADS) as connection:
            waiting = asyncio.create_task(client.post(delivery()))
            await blocked(stack.admin)
            await connection.execute("SELECT pg_sleep(1.1)")
        assert (await waiting).status == 200
        await catch_up(client.runtime.log, 10)
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogAppendSlow"})


async def test_too_large(database_url: str, tmp_path: Path) -> None:
    """A delivery above the limit, which the platform will send again and again."""
    async with healthy(database_url, body_bytes_max=10_000) as client:
        before = await scrape(client)
        assert (await client.post(b" " * 10_001)).status == 413
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogDeliveryNotReadable"})


async def test_defect(stack: Stack, tmp_path: Path) -> None:
    """An error that no code foresees: here a column of another type."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        await stack.admin.execute("ALTER TABLE userlog.users ALTER COLUMN kind TYPE text USING 'x'")
        assert (await client.get(f"/v1/applications/{APP}/users/{SAMPLE_USER}")).status == 500
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogDefect"})


async def test_lag(stack: Stack, tmp_path: Path) -> None:
    """A projector that does some of what there is, ten minutes after it was recorded."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        for number in range(3):
            await client.post(delivery(at_ms=number))
        await stack.admin.execute(
            "UPDATE userlog.events SET recorded_at = recorded_at - interval '10 minutes'"
        )
        assert await project_batch(client.runtime.log, Generation(0, 1), 1, live=True)
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogProjectionLag"})


async def test_no_projector(database_url: str, tmp_path: Path) -> None:
    """Events come in, and nobody projects them."""
    async with healthy(database_url) as client:
        before = await scrape(client)
        await client.post(delivery())
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogProjectorStandsStill"})


async def test_parked(stack: Stack, tmp_path: Path) -> None:
    """An event that was altered can't be projected."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        await client.post(delivery())
        await alter(stack, 4)
        await catch_up(client.runtime.log, 10)
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogUsersParked"})


async def test_quarantine(database_url: str, tmp_path: Path) -> None:
    """A signed delivery that is no JSON."""
    async with healthy(database_url) as client:
        before = await scrape(client)
        assert (await client.post(b"{")).status == 200
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogQuarantineGrows"})


async def test_quarantine_full(database_url: str, tmp_path: Path) -> None:
    """So much in quarantine that what can't be read is refused."""
    async with healthy(database_url, quarantine_bytes_max=650) as client:
        before = await scrape(client)
        assert (await client.post(b"{1")).status == 200
        assert (await client.post(b"{")).status == 503
        during = await scrape(client)
    fire = {"UserlogQuarantineGrows", "UserlogQuarantineNearlyFull"}
    await assert_fires(tmp_path, before, during, fire | {"UserlogDeliveriesTurnedAway"})


async def test_damaged_row(stack: Stack, tmp_path: Path) -> None:
    """A row of a read model that was changed by hand, and found by the scrubber."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        await stack.admin.execute("UPDATE userlog.users SET lifecycle = 1")
        await client.scrubber.scrub_some()
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogReadModelDiffers"})


async def test_altered_log(stack: Stack, tmp_path: Path) -> None:
    """An altered event, found by `userlog verify`."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        await alter(stack, 2)
        assert await verify(client.runtime.log, notes=[], progress=lambda _done, _total: None)
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogVerificationFailed"})


@pytest.mark.parametrize(
    ("over", "fire"),
    [
        (HOURS, {"UserlogNoDeliveries"}),
        (DAYS, {"UserlogNoDeliveries", "UserlogVerificationOld"}),
    ],
    ids=["hours", "days"],
)
async def test_nothing_happens(
    database_url: str, tmp_path: Path, over: Timeline, fire: set[str]
) -> None:
    """Nothing is delivered for hours, nothing verified for days."""
    async with healthy(database_url) as client:
        before: Scrape = await scrape(client)
        await assert_fires(tmp_path, before, await scrape(client), fire, over)


async def test_interrupted_rebuild(stack: Stack, tmp_path: Path) -> None:
    """A rebuild that an unreadable event has stopped."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        await alter(stack, 2)
        with pytest.raises(PoisonError):
            await rebuild(stack.source, Plan())
        during = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogRebuildInterrupted"})


async def test_stuck_rebuild(stack: Stack, tmp_path: Path) -> None:
    """A rebuild that waits for a lock that nobody gives back."""
    async with healthy(stack.url) as client:
        before = await scrape(client)
        async with holding(stack.url, "LOCK TABLE userlog.rebuild_shards IN EXCLUSIVE MODE"):
            building = asyncio.create_task(rebuild(stack.source, Plan()))
            await blocked(stack.admin)
            during = await scrape(client)
        await building
        after = await scrape(client)
    await assert_fires(tmp_path, before, during, {"UserlogRebuildStuck"}, LONG)
    await assert_fires(tmp_path, before, after, set(), LONG)
