"""How the log and the read models are: arrivals, verification, lag, what waits for a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from api.doctor.finding import Finding, amount, broken, counted, ok, span, warning
from eventstore.postgres import statements
from projections.query.lag import lags
from projections.rebuild import progress

if TYPE_CHECKING:
    import asyncpg

    from api.config.settings import Settings
    from eventstore.postgres.sessions import Connection

# As docs/alerts.yml has them.
_SILENT_S = 6 * 3_600
_LAG_S = 60
_UNVERIFIED_S = 8 * 86_400
_NEARLY_FULL = 0.8
_DIFFERED_S = 86_400

_UPGRADE = statements.load("eventstore.postgres", "next.sql")
_SQL = statements.load("api.doctor")
_METRICS = statements.load("api.observe")


async def look(connection: Connection, settings: Settings) -> list[Finding]:
    """Look at everything that the database says of log and read models."""
    partitions = await connection.fetch(_METRICS["metrics_partitions"])
    whole = await connection.fetchrow(_METRICS["metrics_whole"])
    assert whole is not None  # noqa: S101 - it is a row of sums
    now = datetime.now(UTC)
    return [
        _arrivals(partitions, now),
        _verification(partitions, now),
        await _lag(connection),
        _parked(whole),
        _quarantine(whole, settings),
        _retention(settings),
        _scrub(whole, now),
        await _rebuild(connection, running=whole["rebuild_running"]),
        await _upgrade(connection),
    ]


def _arrivals(rows: list[asyncpg.Record], now: datetime) -> Finding:
    events = sum(row["head"] for row in rows)
    if not events:
        return ok("last event", "none yet; `userlog send` tries an endpoint")
    age_s = (now - max(row["recorded_at"] for row in rows if row["head"])).total_seconds()
    if age_s < 0:
        return warning(
            "last event",
            f"{counted(events, 'event')}, the last one recorded {span(-age_s)} in the future",
            "the server's clock was wrong: new events get that time until it has come",
        )
    said = f"{counted(events, 'event')}, the last one {span(age_s)} ago"
    if age_s > _SILENT_S:
        todo = "look whether the platform has blocked the subscriber: docs/operations.md"
        return warning("last event", said, todo)
    return ok("last event", said)


def _verification(rows: list[asyncpg.Record], now: datetime) -> Finding:
    written = [row for row in rows if row["head"]]
    if failed := [str(row["partition"]) for row in written if row["passed"] is False]:
        said = f"the log of partition {', '.join(failed)} is not what was appended"
        todo = "`userlog verify` names the first event; restore a backup from before it"
        return broken("verification", said, todo)
    never = [row for row in written if row["verified_at"] is None]
    if never:
        return warning("verification", "never", "run `userlog verify`, every week")
    if not written:
        return ok("verification", "there is nothing to verify yet")
    age_s = (now - min(row["verified_at"] for row in written)).total_seconds()
    said = f"passed {span(age_s)} ago"
    if age_s > _UNVERIFIED_S:
        return warning("verification", said, "run `userlog verify`, every week")
    return ok("verification", said)


async def _lag(connection: Connection) -> Finding:
    # As in a restored dump without their rows, whose checkpoints say that all is projected.
    if await connection.fetch(_SQL["empty_read_models"]):
        said = "they are empty, and the log is not"
        return broken("read models", said, "run `userlog rebuild`")
    behind = [lag for lag in await lags(connection) if lag.active and lag.lag_positions]
    if not behind:
        return ok("read models", "up to date")
    worst = max(behind, key=lambda lag: lag.lag_s)
    events = sum(lag.lag_positions for lag in behind)
    said = f"{events} events are not projected; the oldest waits for {span(worst.lag_s)}"
    if worst.lag_s > _LAG_S:
        todo = "look whether a process projects (`userlog serve`, `userlog project`) and its log"
        return warning("read models", said, todo)
    return ok("read models", said)


def _parked(whole: asyncpg.Record) -> Finding:
    if count := whole["parked"]:
        todo = "`userlog parked` lists them, `userlog rebuild --parked` tries again"
        return warning("parked users", f"{count} with an event that can't be projected", todo)
    return ok("parked users", "none")


def _quarantine(whole: asyncpg.Record, settings: Settings) -> Finding:
    count, size = whole["quarantined"], whole["quarantine_bytes"]
    if not count:
        return ok("quarantine", "empty")
    room = settings.quarantine_bytes_max
    said = f"{counted(count, 'delivery', 'deliveries')}, {amount(size)} of {amount(room)}"
    todo = "`userlog quarantine list` says why; `replay` or `purge` empties it"
    if size >= room:
        return broken("quarantine", f"{said}: it is full", todo)
    if size > _NEARLY_FULL * room:
        return warning("quarantine", f"{said}: it is nearly full", todo)
    return warning("quarantine", said, todo)


def _retention(settings: Settings) -> Finding:
    users, kept = settings.erase_deleted_after_days, settings.quarantine_purge_after_days
    erased = f"erased after {counted(users, 'day')}" if users else "kept"
    purged = f"purged {counted(kept, 'day')} after it came last" if kept else "kept"
    return ok("retention", f"deleted users are {erased}, the quarantine is {purged}")


def _scrub(whole: asyncpg.Record, now: datetime) -> Finding:
    differed: datetime | None = whole["differed_at"]
    if differed and (now - differed).total_seconds() < _DIFFERED_S:
        said = f"a row differed from the log {span((now - differed).total_seconds())} ago"
        todo = "`userlog rebuild --diff` names the rows, `userlog rebuild` makes them again"
        return broken("comparison with the log", said, todo)
    return ok("comparison with the log", f"{whole['scrubbed']} users compared, no row differs")


async def _rebuild(connection: Connection, *, running: bool) -> Finding:
    found = await progress.read(connection)
    if found is None:
        return ok("rebuild", "none is unfinished")
    said = f"{found.phase}, {found.events} of {found.events_total} events"
    if running:
        return ok("rebuild", f"running: {said}")
    todo = "`userlog rebuild` goes on with it, `userlog rebuild --drop` removes it"
    return warning("rebuild", f"interrupted: {said}", todo)


async def _upgrade(connection: Connection) -> Finding:
    if await connection.fetchval(_UPGRADE["next_left"]) is not None:
        todo = "`userlog upgrade` goes on with it, and names what the quarantine has no room for"
        return warning("upgrade", "what was in quarantine is not all taken apart", todo)
    if await connection.fetchval(_UPGRADE["next_note"]) is None:
        return ok("upgrade", "none is unfinished")
    todo = "`userlog upgrade` goes on with it, `userlog upgrade --drop` removes what it made"
    return warning("upgrade", "unfinished", todo)
