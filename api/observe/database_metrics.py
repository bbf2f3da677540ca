"""The state of the database as metrics, read from it for each scrape.

They belong to no process, so they are the same from every process. A time that has not come yet,
such as that of the first verification, is 0.
"""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from eventstore.errors import database_errors
from eventstore.postgres import schema, statements
from projections.fold.state import FOLD_VERSION
from projections.query.lag import lags
from projections.rebuild import progress

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg
    from prometheus_client.metrics_core import Metric

    from api.config.settings import Settings
    from eventstore.postgres.pool import Pool
    from projections.query.lag import Lag
    from projections.rebuild.progress import Progress

    Values: TypeAlias = dict[tuple[str, ...], float]

_SQL = statements.load("api.observe")
_PHASES = ("building", "indexing", "catching up", "proving")


async def read(pool: Pool) -> list[Metric]:
    """Read everything from the database."""
    with database_errors():
        partitions = await pool.fetch(_SQL["metrics_partitions"])
        whole = await pool.fetchrow(_SQL["metrics_whole"])
    assert whole is not None  # noqa: S101 - it is a row of sums
    return [
        *_partitions(partitions),
        *_whole(whole),
        *_lags(await lags(pool)),
        *_rebuild(await progress.read(pool), running=whole["rebuild_running"]),
    ]


def up(is_up: bool) -> Metric:  # noqa: FBT001 - it is the value
    """Return whether the database answers."""
    return _one("database_up", "1 if the database answers", is_up)


def known(settings: Settings) -> list[Metric]:
    """Return what is known without the database."""
    build = InfoMetricFamily("userlog_build", "The code that runs")
    versions = {
        "version": version("userlog"),
        "python": platform.python_version(),
        "schema": str(schema.SCHEMA_VERSION),
        "fold": str(FOLD_VERSION),
    }
    build.add_metric([], versions)
    room = _one(
        "quarantine_limit_bytes",
        "Bytes that quarantine has room for",
        settings.quarantine_bytes_max,
    )
    if settings.database_url is not None:
        return [build, room]
    disk = shutil.disk_usage(settings.data_dir)
    return [
        build,
        room,
        _one("data_dir_size_bytes", "Size of the data directory's disk", disk.total),
        _one("data_dir_free_bytes", "Free space on the data directory's disk", disk.free),
    ]


def _partitions(rows: list[asyncpg.Record]) -> list[Metric]:
    def each(name: str, text: str, column: str, rows: list[asyncpg.Record] = rows) -> Metric:
        values: Values = {(str(row["partition"]),): _number(row[column]) for row in rows}
        return _many(name, text, ("partition",), values)

    verified = [row for row in rows if row["verified_at"]]

    return [
        each("log_head_position", "Position of the newest event", "head"),
        each(
            "log_recorded_timestamp_seconds",
            "Time of recording of the newest event",
            "recorded_at",
        ),
        each(
            "verification_passed",
            "1 if the last `userlog verify` found no fault",
            "passed",
            verified,
        ),
        each("verification_timestamp_seconds", "Time of the last verification", "verified_at"),
        each("verification_position", "Last verified position", "verified_until", verified),
    ]


def _whole(row: asyncpg.Record) -> list[Metric]:
    def value(name: str, text: str, column: str) -> Metric:
        return _one(name, text, _number(row[column]))

    return [
        value("database_size_bytes", "Size of the database", "size"),
        value("parked_users", "Users with an event that can't be projected", "parked"),
        value("quarantine_deliveries", "Deliveries in quarantine", "quarantined"),
        value("quarantine_bytes", "Bytes in quarantine", "quarantine_bytes"),
        value(
            "quarantine_newest_timestamp_seconds",
            "Time of the newest in quarantine",
            "quarantined_at",
        ),
        _total("scrub_users", "Users compared with the log by scrubbers", row["scrubbed"]),
        _total("scrub_differences", "Rows that differed from the log", row["differences"]),
        value(
            "scrub_timestamp_seconds",
            "Time of the last comparison",
            "scrubbed_at",
        ),
        value(
            "scrub_difference_timestamp_seconds",
            "Time of the last difference",
            "differed_at",
        ),
    ]


def _lags(found: list[Lag]) -> list[Metric]:
    def each(name: str, text: str, field: str) -> Metric:
        labels = ("projection", "partition", "generation")
        values: Values = {
            ("users", str(lag.partition), _state(lag)): getattr(lag, field) for lag in found
        }
        return _many(name, text, labels, values)

    return [
        each("projection_position", "Position of the newest projected event", "position"),
        each("projection_lag_events", "Events that are not projected yet", "lag_positions"),
        each(
            "projection_lag_seconds",
            "Waiting time of the oldest of them",
            "lag_s",
        ),
    ]


def _state(lag: Lag) -> str:
    if lag.active:
        return "answering"
    return "former" if lag.state == "live" else lag.state


def _rebuild(found: Progress | None, *, running: bool) -> list[Metric]:
    phases: Values = {(phase,): bool(found and found.phase == phase) for phase in _PHASES}
    events, planned = (found.events, found.events_total) if found else (0, 0)
    return [
        _one("rebuild_running", "1 while a process works on a rebuild", running),
        _one("rebuild_unfinished", "1 if there is an unfinished rebuild", found is not None),
        _many("rebuild_phase", "1 for the phase of the rebuild", ("phase",), phases),
        _one("rebuild_loaded_events", "Events that the rebuild has folded", events),
        _one("rebuild_planned_events", "Events that the rebuild has to fold", planned),
    ]


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"userlog_{name}", text, value=value)


def _total(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"userlog_{name}", text, value=value)


def _many(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(f"userlog_{name}", text, labels=labels)
    for at, value in values.items():
        family.add_metric(at, value)
    return family


def _number(value: float | datetime | None) -> float:
    if value is None:
        return 0
    return float(value) if isinstance(value, int | float) else value.timestamp()
