"""Commands that run the service and show its state.

What speaks HTTP is imported by the commands that do: aiohttp takes longer than all else together,
and the other commands start twice as quickly without it.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer

from api.cli import output
from api.cli.live import watch_status
from api.cli.shared import (
    SERVICE,
    WATCH,
    FailedError,
    Json,
    StoppedError,
    new_group,
    read_settings,
    run,
    secrets_there,
    with_runtime,
)
from api.config import settings as settings_module
from api.config.address import address_of
from api.config.secret_files import FILES, obtain
from api.config.settings import Settings
from api.config.sources import PREFIX, SettingsError, readable_by_others
from api.endpoints.status import Status, StatusSource, read_status
from api.runtime import Runtime, database_urls, install, opened
from projections.project.projector import catch_up

app = new_group()
_log = structlog.stdlib.get_logger("userlog")
_OK = 200


@app.command("init", rich_help_panel=SERVICE)
def init_command(
    partitions: Annotated[
        int, typer.Option(min=1, max=1024, help="Partitions of the log; can't be changed later.")
    ] = 1,
) -> None:
    """Create userlog in an empty database.

    On a server nothing else does; in a data directory `userlog serve` does it too, with one
    partition.
    """
    settings = read_settings()
    secrets = obtain(settings)

    async def work() -> bool:
        async with database_urls(settings) as urls:
            return await install(urls.owner, settings, secrets, partitions)

    output.plain("schema installed" if run(work()) else "the schema is already installed")


@app.command("serve", rich_help_panel=SERVICE)
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that answer; from 2 on, one more projects."),
    ] = None,
    project: Annotated[
        bool, typer.Option("--projector/--no-projector", help="Keep the read models up to date.")
    ] = True,
) -> None:
    """Serve: take webhooks, answer requests, project.

    Stops at SIGINT (Ctrl-C) or SIGTERM. At SIGHUP it reads its secrets again.
    """
    from api.server import serve  # noqa: PLC0415 - see the top

    def reread() -> Settings:
        settings = read_settings(log_level=None, host=host, port=port, workers=workers)
        for variable in readable_by_others():
            _log.warning(
                "every account of this machine can read a file of secrets", variable=variable
            )
        return settings

    settings = reread()

    def show(text: str) -> None:
        print(text, flush=True)  # noqa: T201 - the greeting is this command's output

    run(serve.serve(settings, project=project, show=show, reread=reread))


@app.command("project", rich_help_panel=SERVICE)
def project_command(
    once: Annotated[bool, typer.Option("--once", help="Catch up and exit.")] = False,
) -> None:
    """Run the projector alone.

    Stops at SIGINT (Ctrl-C) or SIGTERM. At SIGHUP it reads its secrets again.
    """

    def reread() -> Settings:
        return read_settings(log_level=None)

    settings = reread()
    secrets = secrets_there(settings)
    if not once:
        from api.server import serve  # noqa: PLC0415 - see the top

        run(serve.project_forever(settings, secrets, reread))
        return

    async def work() -> int:
        async with opened(settings, secrets) as runtime:
            return await catch_up(runtime.log, settings.projector_batch_rows_max)

    output.plain(f"{run(work())} events projected")


@app.command("send", rich_help_panel=SERVICE)
def send_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of deliveries; default: the samples."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Default: the local service.")] = None,
    json: Json = False,
) -> None:
    """Sign and post deliveries, to try an endpoint."""
    from api.routes import WEBHOOK_PATH  # noqa: PLC0415 - see the top
    from api.webhook import send  # noqa: PLC0415 - likewise

    settings = read_settings()
    if not (words := secrets_there(settings).webhook_secrets):
        path = Path(settings.data_dir) / FILES["webhook_secrets"]
        raise SettingsError(f"there is no secret in {path}; put it there, or let `serve` make one")
    url = url or f"{address_of(settings)}{WEBHOOK_PATH}"
    sent = run(send.send(url, words[0], files or []))
    if json:
        output.as_json(sent)
    else:
        output.sent(sent)
    if any(one.status != _OK for one in sent):
        raise FailedError("not every delivery was answered with 200")


@app.command("status", rich_help_panel=WATCH)
def status_command(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it every second, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the state of log, read models and rebuild."""
    if watch:
        with contextlib.suppress(StoppedError):
            with_runtime(partial(watch_status, json=json))
        return

    async def work(runtime: Runtime) -> Status:
        return await read_status(StatusSource(runtime.log, runtime.pool, runtime.quarantine))

    found = with_runtime(work)
    if json:
        output.as_json(found)
    else:
        output.status(found)


@app.command("settings", rich_help_panel=SERVICE)
def settings_command(json: Json = False) -> None:
    """Show all settings; secrets stay hidden."""
    settings, origins = settings_module.load()
    found: list[dict[str, str]] = []
    for field in msgspec.structs.fields(Settings):
        meaning, example = settings_module.about(field)
        found.append(
            {
                "setting": PREFIX + field.name.upper(),
                "value": settings_module.shown(settings, field.name),
                "origin": origins[field.name],
                "meaning": meaning,
                "example": example,
            }
        )
    if json:
        output.as_json(found)
    else:
        output.settings(found)
