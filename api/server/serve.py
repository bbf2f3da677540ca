"""The service: starts its processes, prints its address, and stops without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from api.config.address import base_url, left
from api.config.secret_files import FILES, Secrets, obtain
from api.config.sources import SettingsError
from api.routes import WEBHOOK_PATH
from api.runtime import Waiting, database_urls, opened, prepare
from api.server.process import answering, projecting, traced
from api.server.sockets import listening
from api.server.supervisor import Supervisor
from api.server.unready import unready
from api.web.waiting import StoppedWaitingError, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from api.config.settings import Settings

    Reread = Callable[[], Settings]

_log = structlog.stdlib.get_logger("userlog")


async def serve(
    settings: Settings, *, project: bool, show: Callable[[str], None], reread: Reread
) -> None:
    """Serve until SIGINT or SIGTERM; `show` prints what a person needs to know first.

    At SIGHUP the secrets are read again, from the settings that `reread` returns.
    """
    secrets = obtain(settings)
    stopping = _until_signal()
    with listening(settings.host, settings.port, settings.workers) as listeners:
        base = base_url(settings.host, listeners[0][0].getsockname()[1])
        greeting = _greeting(settings, secrets, base)
        if settings.workers == 1:
            with contextlib.suppress(StoppedWaitingError):
                async with (
                    _rereading(stopping, reread, secrets.renew),
                    answering(settings, secrets, listeners[0], stopping, project=project),
                ):
                    with left(settings, base):
                        show(greeting)
                        await stopping.wait()
            return
        supervisor = Supervisor(secrets, listeners, project=project)
        async with (
            _rereading(stopping, reread, supervisor.renew),
            database_urls(settings) as urls,
        ):
            url = settings.database_url
            if url is None:
                sockets = [one for each in listeners for one in each]
                async with unready(sockets, settings) as reached:
                    with contextlib.suppress(StoppedWaitingError):
                        prepared = partial(prepare, urls, settings, secrets, reached)
                        url = await wait_for(prepared, stopping)
            if url is None:
                return
            there = msgspec.structs.replace(settings, database_url=url)
            with left(settings, base):
                await supervisor.run(there, stopping, ready=lambda: show(greeting))


async def project_forever(settings: Settings, secrets: Secrets, reread: Reread) -> None:
    """Run the projector alone until SIGINT or SIGTERM; at SIGHUP the secrets are read again."""
    stopping = _until_signal()
    with contextlib.suppress(StoppedWaitingError):
        async with (
            _rereading(stopping, reread, secrets.renew),
            opened(settings, secrets, waiting=Waiting(stopping)) as runtime,
            traced(runtime) as traces,
            projecting(runtime, traces),
        ):
            _log.info("projecting")
            await stopping.wait()


def _until_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping


@contextlib.asynccontextmanager
async def _rereading(
    stopping: asyncio.Event, reread: Reread, renew: Callable[[Secrets], None]
) -> AsyncGenerator[None]:
    """Read the secrets again at SIGHUP; in a terminal it means that the terminal is closed."""
    heard = asyncio.Event()

    async def hear() -> None:
        while await heard.wait():
            heard.clear()
            try:  # in a thread: a command that prints a key takes as long as it takes
                renew(await asyncio.to_thread(lambda: obtain(reread())))
            except SettingsError as error:
                _log.error("secrets not renewed", problem=str(error))
            else:
                _log.info("secrets renewed")

    in_terminal = os.isatty(sys.stderr.fileno())
    loop = asyncio.get_running_loop()
    hearing = loop.create_task(hear(), name="hang-up")
    loop.add_signal_handler(signal.SIGHUP, stopping.set if in_terminal else heard.set)
    try:
        yield
    finally:
        hearing.cancel()


def _greeting(settings: Settings, secrets: Secrets, base: str) -> str:
    folder = Path(settings.data_dir)
    lines = [
        f"userlog {version('userlog')} serves at {base}",
        f"  webhook     {base}{WEBHOOK_PATH}",
    ]
    # Whatever keeps this output, a journal for one, would keep the secrets too.
    for name, label in (("webhook_secrets", "secret"), ("api_token", "token")):
        if name in secrets.made:
            lines.append(f"  {label:<11} in {folder / FILES[name]}, made just now")
    if secrets.made:
        lines.append("  try it      userlog send")
    return "\n".join(lines)
