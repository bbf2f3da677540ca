"""Traces: spans of requests, appends and the projector's batches, through OpenTelemetry.

Only where the extra `otel` is installed and a variable of OpenTelemetry asks for traces; else
nothing of it is imported and nothing is called. A span has the path's pattern and numbers, never a
path, an address, a header or a text from a client.
"""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from aiohttp import hdrs, web

from api.config import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

    from projections.tables import Generation

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ERROR = 500
_log = structlog.stdlib.get_logger("userlog")


def start() -> Tracing | None:
    """Begin to trace if that is asked for; the SDK reads how from OpenTelemetry's variables."""
    if not settings.traces_wanted():
        return None
    try:
        provider = _provider()
    except ImportError:
        _log.warning("no traces: install userlog[otel], or unset OTEL_*")
        return None
    return Tracing(provider)


def _provider() -> TracerProvider:
    # Imported here, so that a service without traces neither needs nor loads OpenTelemetry.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource({"service.name": "userlog", "service.version": version("userlog")})
    named = Resource.create()
    if str(named.attributes["service.name"]).startswith("unknown_service"):
        resource = named.merge(resource)
    else:
        resource = resource.merge(named)
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Makes spans, and sends them from a thread of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider` sends the spans."""
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("userlog")

    def appended(self, events: int, seconds: float) -> None:
        """Make a span of a batch that was appended just now."""
        self._past("append batch", seconds, {"userlog.events": events})

    def projected(self, where: Generation, events: int, seconds: float) -> None:
        """Make a span of a batch that was projected just now."""
        about = {"userlog.partition": where.partition, "userlog.generation": where.number}
        self._past("project batch", seconds, {"userlog.events": events, **about})

    def _past(self, name: str, seconds: float, about: dict[str, int]) -> None:
        from opentelemetry.context import Context  # noqa: PLC0415 - see _provider

        now = time.time_ns()
        began = now - int(seconds * 1e9)
        # A batch is of many requests, so it is below none of them.
        span = self._tracer.start_span(name, Context(), attributes=about, start_time=began)
        span.end(now)

    def middleware(self) -> Middleware:
        """Make a span of each request, below the one that a `traceparent` names."""
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - see _provider
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        parents = TraceContextTextMapPropagator()

        @web.middleware
        async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "no such path"
            method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
            above = parents.extract({"traceparent": request.headers.get("traceparent", "")})
            with self._tracer.start_as_current_span(
                f"{method} {route}",
                above,
                SpanKind.SERVER,
                attributes={"http.request.method": method, "http.route": route},
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                response = await handler(request)
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= _ERROR:
                    span.set_status(StatusCode.ERROR)
                return response

        return trace

    async def stop(self, timeout_s: float) -> None:
        """Send what is left, unless that takes too long."""
        milliseconds = int(timeout_s * 1000)
        await asyncio.to_thread(self._provider.force_flush, milliseconds)
        await asyncio.to_thread(self._provider.shutdown)
