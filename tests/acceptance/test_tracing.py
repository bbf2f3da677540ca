"""Traces, received by a collector on a socket."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.deliveries import APP, SAMPLE_USER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.processes import Home

USER_PATH = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
USER_ROUTE = "/v1/applications/{application_id}/users/{user_id}"
WITHOUT_EXTRA = (
    "import sys; sys.modules['opentelemetry'] = None; from api.cli.main import main; main()"
)
ASK_LOADED = """
import sys, api.cli.main
print("aiohttp" in sys.modules)
import api.server.serve
print("aiohttp" in sys.modules, "opentelemetry" in sys.modules)
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextlib.asynccontextmanager
async def collector() -> AsyncGenerator[tuple[str, list[bytes]]]:
    """Receive traces; yield the address and what comes."""
    received: list[bytes] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", received
    finally:
        await runner.cleanup()


def _spans(received: list[bytes]) -> dict[str, list[dict[str, Any]]]:
    """Return the attributes of all spans, by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert names["service.name"] == "userlog"
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                about = {
                    one.key: getattr(one.value, one.value.WhichOneof("value"))
                    for one in span.attributes
                }
                found.setdefault(span.name, []).append(about | {"trace": span.trace_id.hex()})
    return found


async def test_requests_and_batches_are_traced(home: Home) -> None:
    """A collector gets spans of requests, appends and projections, and nobody's data."""
    async with collector() as (address, received):
        traced = home.alone().where(OTEL_EXPORTER_OTLP_ENDPOINT=address)
        async with traced.serving() as service:
            await home.send(service)
            assert (await service.get(f"{USER_PATH}?min_position=0:3")).status == 200
            await service.get("/v1/applications/a/users?email=someone@example.com")
            await service.get("/v1/salman@example.com")
            headers = {"traceparent": PARENT, "user-agent": "someone's"}
            async with ClientSession(headers=headers) as session:
                await session.get(f"{service.base}/health/live")
            assert await service.stop() == 0
        spans = _spans(received)
    posts = spans["POST /webhooks/fynd"]
    assert [one["http.response.status_code"] for one in posts] == [200] * 3
    (get,) = spans[f"GET {USER_ROUTE}"]
    assert (get["http.route"], get["http.request.method"]) == (USER_ROUTE, "GET")
    (live,) = spans["GET /health/live"]
    assert live["trace"] == PARENT.split("-")[1]
    assert sum(one["userlog.events"] for one in spans["append batch"]) == 3
    assert sum(one["userlog.events"] for one in spans["project batch"]) == 3
    sent = b"".join(received)
    for private in (APP, SAMPLE_USER, "example.com", "someone", "127.0.0.1", "Bearer"):
        assert private.encode() not in sent


async def test_without_the_extra(home: Home) -> None:
    """Where the extra is missing the service says so once, and serves."""
    home = home.by(sys.executable, "-c", WITHOUT_EXTRA)
    home = home.where(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    async with home.serving() as service:
        assert (await service.get("/v1/status")).status == 200
    assert home.folder.with_suffix(".log").read_text().count("install userlog[otel]") == 1


async def test_nothing_is_loaded_unasked(own_home: Home) -> None:
    """Who asks for no traces loads nothing of them, and who needs no HTTP nothing of that."""
    loaded = await own_home.by(sys.executable, "-c", ASK_LOADED).run()
    assert loaded.out == "False\nTrue False\n"
