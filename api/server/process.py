"""What a process of the service does: answer requests, project, or both."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import structlog

from api.app import make_app
from api.observe import tracing
from api.runtime import opened
from api.server.acceptor import Entrance
from api.server.connections import Runner, with_room
from api.server.unready import lobby
from api.web.inflight import IN_HAND
from projections.project.projector import Projector

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from api.config.secret_files import Secrets
    from api.config.settings import Settings
    from api.observe.tracing import Tracing
    from api.runtime import Runtime

_GARBAGE = 10_000
"""So many new objects make it worth looking."""
_log = structlog.stdlib.get_logger("userlog")


@contextlib.asynccontextmanager
async def answering(
    settings: Settings,
    secrets: Secrets,
    sockets: list[socket.socket],
    stopping: asyncio.Event,
    *,
    project: bool,
) -> AsyncGenerator[Runtime]:
    """Answer requests for as long as the block lasts; with 503 until the database is there.

    What is in hand at the end is answered, and projected until then if it is to `project`; the
    sockets are closed by then, so that nobody waits there.
    StoppedWaitingError if `stopping` is set before the database is there.
    """
    settings = with_room(settings)
    async with contextlib.AsyncExitStack() as stack:
        async with lobby(sockets, settings):
            runtime = await stack.enter_async_context(opened(settings, secrets, stopping=stopping))
        traces = await stack.enter_async_context(traced(runtime))
        if project:
            await stack.enter_async_context(projecting(runtime, traces))
        app = make_app(runtime, secrets, traces)
        runner = Runner(app, settings)
        await runner.setup()
        assert runner.server is not None, "it is set up"  # noqa: S101
        entrance = Entrance(sockets, runner.server)
        stack.push_async_callback(_stop, entrance, runner, app, settings.shutdown_timeout_s)
        _spare_the_collector()
        yield runtime
        _log.info("stopping")


def _spare_the_collector() -> None:
    """Let garbage be looked for among what is made from now on, and less often.

    What is there by now stays. Looked through again and again, it held up all answers for 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


async def _stop(
    entrance: Entrance, runner: web.AppRunner, app: web.Application, timeout_s: float
) -> None:
    """Let nobody in any more, answer what is in hand, and end what is then left."""
    entrance.close()
    await app.shutdown()  # ends the streams
    await app[IN_HAND].drain(timeout_s)
    await runner.cleanup()


@contextlib.asynccontextmanager
async def traced(runtime: Runtime) -> AsyncGenerator[Tracing | None]:
    """Trace appends for as long as the block lasts, if traces are asked for."""
    traces = tracing.start()
    if traces is None:
        yield None
        return
    runtime.log.appender.observers.append(traces.appended)
    try:
        yield traces
    finally:
        await traces.stop(runtime.settings.shutdown_timeout_s)


@contextlib.asynccontextmanager
async def projecting(runtime: Runtime, traces: Tracing | None) -> AsyncGenerator[Projector]:
    """Run the projector and the scrubber for as long as the block lasts."""
    settings = runtime.settings
    projector = Projector(
        runtime.log, batch_max=settings.projector_batch_rows_max, poll_s=settings.projector_poll_s
    )
    runtime.log.appended = projector.wake
    if traces:
        projector.observe = traces.projected
    projector.start()
    runtime.scrubber.start()
    try:
        yield projector
    finally:
        await runtime.scrubber.stop()
        await projector.stop()
