"""The service: starts everything, says where it is, and stops without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from api import tracing
from api.app import WEBHOOK_PATH, make_app
from api.runtime import opened
from api.secret_files import FILES, obtain
from projections.projector import Projector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from api.runtime import Runtime
    from api.secret_files import Secrets
    from api.settings import Settings
    from api.tracing import Tracing

_log = structlog.stdlib.get_logger("userlog")


async def serve(settings: Settings, *, project: bool, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told what a person needs to know first."""
    secrets = obtain(settings)
    stopping = _until_signal()
    async with opened(settings, secrets) as runtime, _traced(runtime) as traces:
        projector = _projector(runtime, traces)
        if project:
            projector.start()
            runtime.scrubber.start()
        runner = web.AppRunner(
            make_app(runtime, secrets, traces),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=settings.shutdown_timeout_s,
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, settings.host, settings.port).start()
            say(_greeting(settings, secrets, runner.addresses[0][1]))
            await stopping.wait()
            _log.info("stopping")
        finally:
            await runner.cleanup()
            await runtime.scrubber.stop()
            await projector.stop()


async def project_forever(settings: Settings) -> None:
    """Run the projector alone until SIGINT or SIGTERM."""
    stopping = _until_signal()
    async with opened(settings, obtain(settings)) as runtime, _traced(runtime) as traces:
        projector = _projector(runtime, traces)
        projector.start()
        runtime.scrubber.start()
        _log.info("projecting")
        await stopping.wait()
        await runtime.scrubber.stop()
        await projector.stop()


@contextlib.asynccontextmanager
async def _traced(runtime: Runtime) -> AsyncGenerator[Tracing | None]:
    """Trace appends, if traces are asked for."""
    traces = tracing.start()
    if traces is None:
        yield None
        return
    runtime.log.appender.observers.append(traces.appended)
    try:
        yield traces
    finally:
        await traces.stop(runtime.settings.shutdown_timeout_s)


def _projector(runtime: Runtime, traces: Tracing | None) -> Projector:
    settings = runtime.settings
    projector = Projector(
        runtime.log, batch_max=settings.projector_batch_rows_max, poll_s=settings.projector_poll_s
    )
    runtime.log.appended = projector.wake
    if traces:
        projector.observe = traces.projected
    return projector


def _until_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def _greeting(settings: Settings, secrets: Secrets, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"http://{host}:{port}"
    folder = Path(settings.data_dir)
    lines = [
        f"userlog {version('userlog')} serves at {base}",
        f"  webhook     {base}{WEBHOOK_PATH}",
    ]
    if "webhook_secrets" in secrets.made:
        lines.append(f"  secret      in {folder / FILES['webhook_secrets']}, made just now")
    if "api_token" in secrets.made:
        lines.append(f"  read token  {secrets.api_token}")
        lines.append(f"              kept in {folder / FILES['api_token']}")
    if secrets.made:
        lines.append("  try it      userlog send")
    return "\n".join(lines)
