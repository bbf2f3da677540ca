"""One process of the service: it answers requests, projects, or both."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, NamedTuple

import structlog

from api.app import App
from api.observe import tracing
from api.runtime import Waiting, opened
from api.server.acceptor import Acceptor
from api.server.connections import Runner, fit_open_files
from api.server.head_signer import HeadSigner
from api.server.unready import unready
from projections.project.projector import Projector
from projections.project.retention import Days, Retention
from projections.prove.scrubber import Scrubber
from projections.subprocesses import GARBAGE

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncGenerator

    from api.config.secret_files import Secrets
    from api.config.settings import Settings
    from api.observe.tracing import Tracing
    from api.runtime import Runtime

_AS_OWNER = (
    "the service logs in as the owner of the schema, so an attacker in it could change the log;"
    " docs/operations.md, Two roles, has the steps for a login of its own"
)
# Twice as much freed memory is kept for what comes next.
_FREED_AT_ONCE = 8 << 20
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
    """Answer requests for as long as the block lasts; with 503 until the database is reachable.

    What is entered here is ended in the reverse order: first the requests, then the projector,
    which projects until then what they brought, last the database. The sockets are closed at once,
    so that no connection waits there.
    StoppedWaitingError if `stopping` is set before the database is reachable.
    """
    settings = fit_open_files(settings)
    async with contextlib.AsyncExitStack() as stack:
        async with unready(sockets, settings) as reached:
            runtime = await stack.enter_async_context(
                opened(settings, secrets, create=True, waiting=Waiting(stopping, reached))
            )
        traces = await stack.enter_async_context(traced(runtime))
        scrubber = None
        if project:
            background = await stack.enter_async_context(projecting(runtime, traces))
            scrubber = background.scrubber
        app = App(runtime, secrets, scrubber, traces)
        await stack.enter_async_context(serving(app, settings, sockets))
        _spare_the_collector()
        _keep_freed_memory()
        yield runtime
        _log.info("stopping")


@contextlib.asynccontextmanager
async def serving(
    app: App, settings: Settings, sockets: list[socket.socket]
) -> AsyncGenerator[Runner]:
    """Let an application answer at sockets for as long as the block lasts."""
    async with contextlib.AsyncExitStack() as stack:
        # Ended from the last line to the first: no new connections, streams end, requests in
        # flight are answered, connections are closed, the application's tasks end.
        stack.push_async_callback(app.close)
        runner = Runner(app.application, settings)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        stack.push_async_callback(app.drain, settings.shutdown_timeout_s)
        stack.callback(app.feed.stopping.set)
        assert runner.server is not None, "it is set up"  # noqa: S101
        stack.callback(Acceptor(sockets, runner.server).close)
        yield runner


def _spare_the_collector() -> None:
    """Let garbage be looked for among what is made from now on, and less often.

    What is there by now stays. Looked through again and again, it held up all answers for 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _keep_freed_memory() -> None:
    """Let the memory of one large body serve the next, instead of giving it back each time.

    glibc learns how much to keep from the largest block that it gave back. Until then each 4 KiB
    of a piece of a body cost page faults, two fifths of what a mebibyte took that had to be hashed.
    """
    bytes(_FREED_AT_ONCE)


@contextlib.asynccontextmanager
async def traced(runtime: Runtime) -> AsyncGenerator[Tracing | None]:
    """Trace appends for as long as the block lasts, if traces are asked for."""
    traces = tracing.start()
    if traces is None:
        yield None
        return
    runtime.log.observers.append(traces.appended)
    try:
        yield traces
    finally:
        await traces.stop(runtime.settings.shutdown_timeout_s)


class Background(NamedTuple):
    """What works on the read models in the background."""

    projector: Projector
    scrubber: Scrubber


@contextlib.asynccontextmanager
async def projecting(runtime: Runtime, traces: Tracing | None) -> AsyncGenerator[Background]:
    """Run projector, scrubber, retention and head signer for as long as the block lasts."""
    settings, log = runtime.settings, runtime.log
    if runtime.as_owner:
        _log.warning(_AS_OWNER)
    projector = Projector(
        log, batch_max=settings.projector_batch_rows_max, poll_s=settings.projector_poll_s
    )
    scrubber = Scrubber(log, interval_s=settings.scrub_interval_s)
    days = Days(settings.erase_deleted_after_days, settings.quarantine_purge_after_days)
    retention = Retention(log, runtime.quarantine, days)
    signer = HeadSigner(log, settings)
    log.observers.append(lambda _events, _seconds: projector.wake())
    if traces:
        projector.observers.append(traces.projected)
    projector.start()
    scrubber.start()
    retention.start()
    signer.start()
    try:
        yield Background(projector, scrubber)
    finally:
        await signer.stop()
        await retention.stop()
        await scrubber.stop()
        await projector.stop()
