"""Retention: who was deleted is erased when the days have passed, and not a day before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from api.webhook.decode import decode
from projections.project import retention as retention_module
from projections.project.projector import catch_up
from projections.project.retention import Days, Retention, Swept
from tests.support.database import alter
from tests.support.deliveries import APP, T0, delivery

if TYPE_CHECKING:
    from tests.conftest import Stack

DAY = timedelta(days=1)


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


async def recorded(stack: Stack, user: str, kind: str, day: int, *, projected: bool = True) -> None:
    """Record an event that occurred on a day, on that day."""
    at = T0 + day * DAY
    (event,) = decode(delivery(user, kind, day * 86_400_000)).events
    await stack.log.append([msgspec.structs.replace(event, recorded_at=at)])
    if projected:
        await catch_up(stack.log, 100)


async def erased(stack: Stack, *users: str) -> list[str]:
    """Return who of some is erased."""
    return [user for user in users if await stack.log.is_erased(stack.log.stream(APP, user))]


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_not_a_day_before(stack: Stack) -> None:
    """Deleted on day 1, with 30 days: there on day 31, erased the moment after; others stay."""
    users = [f"u{n}" for n in range(5)]
    for user in (*users, "stays"):
        await recorded(stack, user, "create", 0)
    for user in users:
        await recorded(stack, user, "delete", 1)
    clock = Clock(T0 + 31 * DAY)
    retention = Retention(stack.log, stack.quarantine, Days(30), clock)
    assert await retention.sweep() == Swept(0, 0)
    clock.now += timedelta(milliseconds=1)
    assert await retention.sweep() == Swept(5, 0)
    assert await erased(stack, *users, "stays") == users
    assert await retention.sweep() == Swept(0, 0)
    (row,) = await stack.log.audit.of_user(stack.log.stream(APP, "u0"))
    assert (str(row.act.actor), row.act.reason) == ("service retention", "deleted 30 days ago")


async def test_restored_ones_are_not(stack: Stack) -> None:
    """Neither who was restored, nor whose restoring waits for the projector or can't be read."""
    for user in ("restored", "waiting", "parked", "deleted"):
        await recorded(stack, user, "create", 0)
        await recorded(stack, user, "delete", 1)
    await recorded(stack, "restored", "update", 2)
    await recorded(stack, "parked", "update", 2, projected=False)
    await alter(stack, 10)
    await catch_up(stack.log, 100)
    await recorded(stack, "waiting", "update", 2, projected=False)
    clock = Clock(T0 + 400 * DAY)
    retention = Retention(stack.log, stack.quarantine, Days(30), clock)
    assert await retention.sweep() == Swept(1, 0)
    assert await erased(stack, "restored", "waiting", "parked", "deleted") == ["deleted"]
    await catch_up(stack.log, 100)
    assert await retention.sweep() == Swept(0, 0)


async def test_who_was_restored_keeps_nobody_else(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first who are due wait for the projector, the rest goes in the same sweep."""
    monkeypatch.setattr(retention_module, "_AT_ONCE", 4)
    for n in range(12):
        await recorded(stack, f"u{n}", "delete", 1)
    for n in range(2):
        await recorded(stack, f"u{n}", "update", 2, projected=False)
    clock = Clock(T0 + 400 * DAY)
    retention = Retention(stack.log, stack.quarantine, Days(30), clock)
    assert await retention.sweep() == Swept(10, 0)


async def test_a_wrong_clock_erases_nobody_early(stack: Stack) -> None:
    """A deletion that is dated years back and was recorded just now has its days before it."""
    await stack.ingest.deliver(delivery("u", "delete", -(10**11)))
    await catch_up(stack.log, 100)
    now = datetime.now(UTC)
    clock = Clock(now + 29 * DAY)
    retention = Retention(stack.log, stack.quarantine, Days(30), clock)
    assert await retention.sweep() == Swept(0, 0)
    clock.now = now + 31 * DAY
    assert await retention.sweep() == Swept(1, 0)


async def test_more_than_are_erased_at_once(stack: Stack) -> None:
    """All that are due go in one sweep, however many."""
    bodies = [delivery(f"u{n}", "delete", n) for n in range(230)]
    await stack.log.append([event for body in bodies for event in decode(body).events])
    await catch_up(stack.log, 1000)
    clock = Clock(datetime.now(UTC) + 2 * DAY)
    assert await Retention(stack.log, stack.quarantine, Days(1), clock).sweep() == Swept(230, 0)


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_the_quarantine_is_purged(stack: Stack) -> None:
    """Of what came last so many days ago; what came again since stays, and it is accounted for."""
    for body in (b"{", b"[", b"again"):
        await stack.quarantine.put(body, "not-json", "")
    await stack.admin.execute(
        "UPDATE userlog.quarantine SET last_seen = last_seen - interval '7 days'"
    )
    await stack.quarantine.put(b"again", "not-json", "")
    clock = Clock(datetime.now(UTC))
    assert await Retention(stack.log, stack.quarantine, Days(0, 8), clock).sweep() == Swept(0, 0)
    assert await Retention(stack.log, stack.quarantine, Days(0, 7), clock).sweep() == Swept(0, 2)
    assert await stack.quarantine.count() == 1
    key = await stack.log.audit.key()
    assert key
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.audit") == 1


async def test_nothing_is_purged_unaccounted(stack: Stack) -> None:
    """The audit comes first: where it can't be written, all stays."""
    await stack.quarantine.put(b"{", "not-json", "")
    await stack.admin.execute("ALTER FUNCTION userlog.audit RENAME TO elsewhere")
    clock = Clock(datetime.now(UTC) + 9 * DAY)
    retention = Retention(stack.log, stack.quarantine, Days(0, 7), clock)
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await retention.sweep()
    assert await stack.quarantine.count() == 1
    await stack.admin.execute("ALTER FUNCTION userlog.elsewhere RENAME TO audit")
    assert await retention.sweep() == Swept(0, 1)


async def test_off_unless_set(stack: Stack) -> None:
    """Nothing is erased or purged, and no task runs."""
    await recorded(stack, "u", "delete", 1)
    await stack.quarantine.put(b"{", "not-json", "")
    retention = Retention(stack.log, stack.quarantine, Days(), Clock(T0 + 9999 * DAY))
    retention.start()
    assert retention._task is None
    assert await retention.sweep() == Swept(0, 0)
    await retention.stop()
