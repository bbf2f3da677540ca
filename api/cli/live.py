"""Live output: a bar or a table on a terminal, lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from api.cli import output
from api.endpoints.status import Status, StatusSource, read_status
from api.observe.visible import json_text
from projections.rebuild import progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from api.runtime import Runtime

_LOOK_S = 0.5
_LINE_S = 2.0
_STATUS_S = 1.0


async def watch_status(runtime: Runtime, *, json: bool) -> None:
    """Show the status every second, until cancelled."""
    source = StatusSource(runtime.log, runtime.pool, runtime.quarantine)
    if json or not output.console.is_terminal:
        show = _changes(lambda found: json_text(found) if json else output.status_line(found))
        while True:
            show(await read_status(source))
            await asyncio.sleep(_STATUS_S)
    with Live(console=output.console, auto_refresh=False) as live:
        while True:
            live.update(output.status_view(await read_status(source)), refresh=True)
            await asyncio.sleep(_STATUS_S)


def _changes(line_of: Callable[[Status], str]) -> Callable[[Status], None]:
    """Print a line whenever it is not the same as before."""
    shown = ""

    def show(found: Status) -> None:
        nonlocal shown
        line = line_of(found)
        if line != shown:
            print(line, flush=True)  # noqa: T201 - as it is, without rich's wrapping
            shown = line

    return show


@contextlib.asynccontextmanager
async def rebuild_shown(runtime: Runtime) -> AsyncGenerator[Callable[[], None]]:
    """Show on standard error how far a rebuild is, once what it yields was called."""
    started = asyncio.Event()

    async def show() -> None:
        await started.wait()
        await (_bar(runtime) if output.errors.is_terminal else _lines(runtime))

    task = asyncio.create_task(show())
    try:
        yield started.set
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _bar(runtime: Runtime) -> None:
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), console=output.errors
    ) as bar:
        task = bar.add_task("rebuilding", total=None)
        while True:
            if found := await progress.read(runtime.pool):
                line = output.rebuild_line(found)
                bar.update(task, description=line, completed=found.events, total=found.events_total)
            await asyncio.sleep(_LOOK_S)


async def _lines(runtime: Runtime) -> None:
    while True:
        if found := await progress.read(runtime.pool):
            output.error(output.rebuild_line(found))
        await asyncio.sleep(_LINE_S)
