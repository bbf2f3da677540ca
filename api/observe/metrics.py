"""What a monitoring system reads: what this service did, and how the database stands.

Counters are kept by each process; where several share the port, prometheus_client keeps them in
files that whichever process is asked adds up. What stands in the database (`api/gauges`) is asked
for when it is read, so it is the same from every process, and there after a restart. Names end in
their unit, labels are few and never say who a user is.
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
from api.web.problems import Problem
from eventstore.errors import LogError, QueueFullError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from api.runtime import Runtime
    from api.webhook.ingest import Receipt

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
_PATIENCE_S = 3.0
"""How long the database may take to say how it stands; Prometheus waits ten seconds for all."""
_NOTED_AFTER_S = 0.1
_DEFECT = 500
_REFUSED = {
    400: "incomplete",
    401: "signature",
    408: "slow",
    413: "too-large",
    503: "overloaded",
}
_REASONS = (*_REFUSED.values(), "queue-full", "unavailable", "defect")

disable_created_metrics()  # a second series for each, which nothing here asks for


class Metrics:
    """The metrics of one process, and what it knows of the others'."""

    def __init__(self, runtime: Runtime) -> None:
        """Every append of the runtime's log is observed."""
        self._runtime = runtime
        self._registry = CollectorRegistry()
        self._looking: asyncio.Task[list[Metric]] | None = None
        self._noting: asyncio.TimerHandle | None = None
        self._deliveries = self._counter(
            "deliveries",
            "Signed deliveries, answered with 200",
            "outcome",
            "taken ignored quarantined",
        )
        self._refused = self._counter(
            "deliveries_refused", "Deliveries answered otherwise", "reason", " ".join(_REASONS)
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
        self._gauge("queue_limit_events", "How many may wait before deliveries are refused").set(
            runtime.settings.queue_rows_max
        )
        self._connections = self._gauge(
            "database_connections", "Connections to the database", "state"
        )
        self._gauge("database_connections_limit", "How many there may be").set(
            runtime.settings.pool_connections_max
        )
        self._note_use()
        runtime.log.appender.observers.append(self._appended)

    def _counter(self, name: str, text: str, label: str, values: str) -> dict[str, Counter]:
        """Make counters that are there from the beginning, so that their first step is seen."""
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

    def _note_use_soon(self) -> None:
        """Let another process, if that one is asked, know what goes on here; once for many."""
        if self._noting is None:
            loop = asyncio.get_running_loop()
            self._noting = loop.call_later(_NOTED_AFTER_S, self._note_use)

    def _note_use(self) -> None:
        """Set this process's gauges."""
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
        pool = self._runtime.log.pool
        idle = pool.get_idle_size()
        self._queue.set(self._runtime.log.appender.queued)
        self._connections.labels("idle").set(idle)
        self._connections.labels("used").set(pool.get_size() - idle)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the path's pattern, never the path."""
        observed = self._observed.get((route, status))
        if observed is None:
            observed = self._observed[route, status] = self._requests.labels(route, str(status))
        observed.observe(seconds)
        self._note_use_soon()
        if status == _DEFECT:
            self._defects.inc()

    def delivery(self, receipt: Receipt) -> None:
        """Count a delivery that was answered with 200, once, and the events in it."""
        outcome = (
            "quarantined" if receipt.quarantined else "ignored" if receipt.ignored else "taken"
        )
        self._deliveries[outcome].inc()
        if receipt.accepted:
            self._events["accepted"].inc(receipt.accepted)
        if receipt.duplicates:
            self._events["duplicate"].inc(receipt.duplicates)

    def refused(self, error: Exception) -> None:
        """Count a delivery that was refused, by its reason."""
        self._refused[_reason(error)].inc()

    async def read(self) -> bytes:
        """Return everything as text; of the database only that it is away, if it is."""
        self._note_use()
        found = await self._look()
        return generate_latest(self._counted()) + generate_latest(_registry_of(found))

    def _counted(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        try:
            MultiProcessCollector(registry)
        except ValueError:  # prometheus_client's several processes are not switched on
            registry = self._registry
        return registry

    async def _look(self) -> list[Metric]:
        """Ask the database, for all who want to know at once, and for a bounded time."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(
                database_metrics.read(self._runtime), name="metrics"
            )
        looking = self._looking
        await asyncio.wait([looking], timeout=_PATIENCE_S)
        try:
            found = looking.result() if looking.done() else None
        except LogError:
            found = None
        return [
            *database_metrics.known(self._runtime),
            database_metrics.up(found is not None),
            *(found or ()),
        ]

    async def close(self) -> None:
        """Ask the database no more; idempotent."""
        if self._noting is not None:
            self._noting.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=_PATIENCE_S)


class _Found(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry_of(families: list[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Found(families))
    ProcessCollector(registry=registry)
    return registry


def _reason(error: Exception) -> str:
    match error:
        case Problem():
            return _REFUSED.get(error.document.status, "defect")
        case QueueFullError():
            return "queue-full"
        case UnavailableError():
            return "unavailable"
        case _:
            return "defect"
