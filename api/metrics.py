"""What a monitoring system reads: counters of this process, and how the database stands.

Names end in their unit, labels are few and never say who a user is. What stands in the database
is asked for when it is read, so a process that has just begun shows it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from eventstore.errors import LogError
from projections import progress, set_aside

if TYPE_CHECKING:
    from api.ingest import Receipt
    from api.runtime import Runtime

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Metrics:
    """The metrics of one process."""

    def __init__(self, runtime: Runtime) -> None:
        """Every append of the runtime's log is observed."""
        self._runtime = runtime
        self._registry = CollectorRegistry()
        self._deliveries = self._counter("deliveries", "Deliveries that were signed", "outcome")
        self._events = self._counter("events", "User events in these deliveries", "outcome")
        self._requests = Histogram(
            "userlog_http_request_seconds",
            "Time from a request's head to its answer",
            ("route", "status"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._append_seconds = self._histogram("append_seconds", "Time for a batch", _SECONDS)
        self._append_events = self._histogram("append_events", "Events in a batch", _EVENTS)
        runtime.log.appender.observe = self._appended

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"userlog_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"userlog_{name}", text, buckets=buckets, registry=self._registry)

    def _appended(self, events: int, seconds: float) -> None:
        self._append_events.observe(events)
        self._append_seconds.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the path's pattern, never the path."""
        self._requests.labels(route, str(status)).observe(seconds)

    def delivery(self, receipt: Receipt) -> None:
        """Count a delivery that was answered with 200, once, and the events in it."""
        outcome = (
            "quarantined" if receipt.quarantined else "ignored" if receipt.ignored else "taken"
        )
        self._deliveries.labels(outcome).inc()
        self._events.labels("accepted").inc(receipt.accepted)
        self._events.labels("duplicate").inc(receipt.duplicates)

    async def read(self) -> bytes:
        """Return everything as text; of the database only that it is away, if it is."""
        now = CollectorRegistry()
        up = Gauge("userlog_database_up", "Whether the database answers", registry=now)
        queue = Gauge("userlog_queue_events", "Events that wait to be written", registry=now)
        queue.set(self._runtime.log.appender.queued)
        try:
            await _database(self._runtime, now)
            up.set(1)
        except LogError:
            up.set(0)
        return generate_latest(self._registry) + generate_latest(now)


async def _database(runtime: Runtime, now: CollectorRegistry) -> None:
    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"userlog_{name}", text, labels, registry=now)

    heads, lags = await runtime.log.heads(), await runtime.read_model.lags()
    building = await progress.read(runtime.log.pool)
    head = gauge("log_head_position", "The newest event of a partition", "partition")
    for one in heads:
        head.labels(one.position.partition).set(one.position.number)
    events = gauge("projection_lag_events", "Events not projected yet", "partition", "generation")
    seconds = gauge("projection_lag_seconds", "Age of the oldest", "partition", "generation")
    for lag in lags:
        name = "answers" if lag.active else lag.state
        events.labels(lag.partition, name).set(lag.lag_positions)
        seconds.labels(lag.partition, name).set(lag.lag_s)
    gauge("set_aside_users", "Users with an event that can't be projected").set(
        await set_aside.count(runtime.log.pool)
    )
    gauge("quarantine_deliveries", "Deliveries that could not be read").set(
        await runtime.quarantine.count()
    )
    gauge("rebuild_running", "Whether a rebuild is unfinished").set(building is not None)
    gauge("rebuild_events", "Events that it has folded").set(building.events if building else 0)
    if scrubbed := runtime.scrubber.scrubbed:
        gauge("scrubbed_users", "Users proven since the process began").set(scrubbed.users_proven)
        gauge("scrub_differences", "Rows that were not what the log says").set(scrubbed.differences)
