"""Metrics of the service: what its processes did, and the state of the database.

Counters are kept by each process; where several share the port, prometheus_client keeps them in
files, and the process that is scraped adds them up. The state of the database
(`database_metrics`) is read for each scrape, so it is the same from every process, and there after
a restart. Names end in their unit, labels are few and never name a user.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.observe import database_metrics
from eventstore.errors import LogError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from api.config.settings import Settings
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
# How long reading the database's state may take; Prometheus waits ten seconds for all.
_PATIENCE_S = 3.0
_UPDATED_AFTER_S = 0.1
_DEFECT = 500
_REFUSALS = (
    *("incomplete", "signature", "slow", "too-large", "encoded", "overloaded"),
    *("queue-full", "quarantine-full", "unavailable", "defect"),
)


class Metrics:
    """The metrics of one process, and what it knows of the others'."""

    def __init__(self, log: EventLog, pool: Pool, settings: Settings) -> None:
        """Every append of the log is observed from now on."""
        disable_created_metrics()  # a second series for each, which nothing here asks for
        self._log = log
        self._pool = pool
        self._settings = settings
        self._registry = CollectorRegistry()
        self._reading: asyncio.Task[list[Metric]] | None = None
        self._update: asyncio.TimerHandle | None = None
        self._deliveries = self._counter(
            "deliveries",
            "Signed deliveries answered with 200",
            "outcome",
            "taken ignored quarantined",
        )
        self._refused = self._counter(
            "deliveries_refused", "Deliveries that were refused", "reason", " ".join(_REFUSALS)
        )
        self._events = self._counter(
            "events", "User events in deliveries", "outcome", "accepted duplicate"
        )
        self._requests = Histogram(
            "userlog_http_request_duration_seconds",
            "Time from a request's head to its answer",
            ("route", "status"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._observed: dict[tuple[str, int], Histogram] = {}
        self._defects = Counter(
            "userlog_http_defects", "Requests answered with 500", registry=self._registry
        )
        self._append_seconds = self._histogram(
            "append_duration_seconds", "Time to append a batch", _SECONDS
        )
        self._append_events = self._histogram(
            "append_batch_events", "Events appended in a batch", _EVENTS
        )
        self._queue = self._gauge("queue_events", "Events that wait to be appended")
        self._gauge("queue_limit_events", "Events that may wait before deliveries are refused").set(
            settings.queue_rows_max
        )
        self._connections = self._gauge(
            "database_connections", "Connections to the database", "state"
        )
        self._gauge("database_connections_limit", "Allowed connections").set(
            settings.pool_connections_max
        )
        self._set_gauges()
        log.observers.append(self._appended)

    def _counter(self, name: str, text: str, label: str, values: str) -> dict[str, Counter]:
        """Make counters that begin at 0, so that their first increase is seen."""
        counter = Counter(f"userlog_{name}", text, (label,), registry=self._registry)
        return {value: counter.labels(value) for value in values.split()}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"userlog_{name}", text, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Make a gauge whose values of all living processes are added up."""
        name = f"userlog_{name}"
        return Gauge(name, text, labels, registry=self._registry, multiprocess_mode="livesum")

    def _appended(self, events: int, seconds: float) -> None:
        self._append_events.observe(events)
        self._append_seconds.observe(seconds)

    def _set_gauges_soon(self) -> None:
        """Show the gauges of this process to the one that is scraped; once for many requests."""
        if self._update is None:
            loop = asyncio.get_running_loop()
            self._update = loop.call_later(_UPDATED_AFTER_S, self._set_gauges)

    def _set_gauges(self) -> None:
        """Set this process's gauges."""
        if self._update is not None:
            self._update.cancel()
            self._update = None
        idle = self._pool.get_idle_size()
        self._queue.set(self._log.queued)
        self._connections.labels("idle").set(idle)
        self._connections.labels("used").set(self._pool.get_size() - idle)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the path's pattern, never the path."""
        observed = self._observed.get((route, status))
        if observed is None:
            observed = self._observed[route, status] = self._requests.labels(route, str(status))
        observed.observe(seconds)
        self._set_gauges_soon()
        if status == _DEFECT:
            self._defects.inc()

    def delivery(self, outcome: str, accepted: int, duplicates: int) -> None:
        """Count a delivery that was answered with 200, once, and the events in it.

        `outcome` is taken, ignored or quarantined.
        """
        self._deliveries[outcome].inc()
        if accepted:
            self._events["accepted"].inc(accepted)
        if duplicates:
            self._events["duplicate"].inc(duplicates)

    def refused(self, reason: str) -> None:
        """Count a delivery that was refused; any other reason than those known is a defect."""
        self._refused[reason if reason in _REFUSALS else "defect"].inc()

    async def read(self) -> bytes:
        """Return everything as text; of the database only that it is away, if it is."""
        self._set_gauges()
        found = await self._read_database()
        return generate_latest(self._counted()) + generate_latest(_registry_of(found))

    def _counted(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        try:
            MultiProcessCollector(registry)
        except ValueError:  # prometheus_client's several processes are not switched on
            registry = self._registry
        return registry

    async def _read_database(self) -> list[Metric]:
        """Read the database once for all scrapes that wait, for a bounded time."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(database_metrics.read(self._pool), name="metrics")
        reading = self._reading
        await asyncio.wait([reading], timeout=_PATIENCE_S)
        try:
            found = reading.result() if reading.done() else None
        except LogError:
            found = None
        return [
            *database_metrics.known(self._settings),
            database_metrics.up(found is not None),
            *(found or ()),
        ]

    async def close(self) -> None:
        """Stop reading the database; idempotent."""
        if self._update is not None:
            self._update.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=_PATIENCE_S)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry_of(families: list[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    ProcessCollector(registry=registry)
    return registry
