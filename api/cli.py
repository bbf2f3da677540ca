"""The command `userlog`.

Exit codes: 0 success, 1 what was checked does not hold or could not be done, 2 wrong usage or
settings. An expected failure prints one line, never a traceback.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import msgspec
import typer
import uvloop
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from api import handlers as http
from api import logs, params, render, send, serve
from api import settings as settings_module
from api.app import WEBHOOK_PATH
from api.runtime import database_url, install, opened
from api.secret_files import obtain
from api.settings import PREFIX, Settings, SettingsError
from eventstore.embedded import EmbeddedPostgresError
from eventstore.errors import LogError
from projections.projector import catch_up
from projections.rebuild import RebuildRunningError, rebuild

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from datetime import datetime

    from projections.read_model import User

app = typer.Typer(
    name="userlog",
    help="Who your users are, what happened to them, and what was known when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
quarantine_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(quarantine_app, name="quarantine", help="Signed deliveries that could not be read.")

LogLevel = Literal["debug", "info", "warning", "error"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Application = Annotated[str, typer.Argument(help="The sales channel's application id.")]
UserId = Annotated[str, typer.Argument(help="The user's id.")]
ValidAt = Annotated[
    str | None, typer.Option("--valid-at", help="As they were at this time (RFC 3339).")
]
KnownAt = Annotated[
    str | None, typer.Option("--known-at", help="By what had been recorded at this time.")
]


class _FailedError(Exception):
    """Ends a command with one line and exit code 1."""


def main() -> NoReturn:
    """Run the command line; the exit code tells how it went."""
    try:
        app()
    except SettingsError as error:
        _exit(str(error), 2)
    except RebuildRunningError as error:
        _exit(str(error), 2)
    except (_FailedError, LogError, EmbeddedPostgresError) as error:
        _exit(str(error), 1)
    except BrokenPipeError:
        sys.stdout = None
        sys.exit(0)
    sys.exit(0)


def _exit(message: str, code: int) -> NoReturn:
    render.errors.print(f"userlog: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


def _settings(log_level: LogLevel | None = "warning", **given: Any) -> Settings:  # noqa: ANN401 - as typed in Settings
    """Read the settings; commands that answer and end log warnings only, unless told otherwise."""
    settings, origins = settings_module.load(**given)
    level = settings.log_level
    if log_level is not None and origins["log_level"] == "default":
        level = log_level
    logs.configure(level, settings.log_format)
    return settings


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work returns
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        raise _FailedError("interrupted") from None


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        return params.moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@app.command("init")
def init_command(
    partitions: Annotated[
        int, typer.Option(min=1, max=1024, help="Parts of the log; fixed for ever.")
    ] = 1,
) -> None:
    """Create the schema; serve does it too on an empty database."""
    settings = _settings()
    obtain(settings)

    async def work() -> bool:
        async with database_url(settings) as url:
            return await install(url, settings, partitions)

    installed = _run(work())
    render.plain("schema installed" if installed else "the schema is there already")


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")] = None,
    project: Annotated[
        bool, typer.Option("--projector/--no-projector", help="Keep the read models up to date.")
    ] = True,
) -> None:
    """Take webhooks, answer questions, and project, until Ctrl-C."""
    settings = _settings(log_level=None, host=host, port=port)

    def say(text: str) -> None:
        print(text, flush=True)  # noqa: T201 - the greeting is this command's output

    _run(serve.serve(settings, project=project, say=say))


@app.command("project")
def project_command(
    once: Annotated[bool, typer.Option("--once", help="Catch up and exit.")] = False,
) -> None:
    """Keep the read models up to date, without serving."""
    settings = _settings(log_level=None)
    if not once:
        _run(serve.project_forever(settings))
        return

    async def work() -> int:
        async with opened(settings, obtain(settings)) as runtime:
            return await catch_up(runtime.log, settings.projector_batch_rows_max)

    render.plain(f"{_run(work())} events projected")


@app.command("rebuild")
def rebuild_command(json: Json = False) -> None:
    """Make the read models again from the log, while everything goes on."""
    settings = _settings()

    async def work() -> int:
        async with opened(settings, obtain(settings)) as runtime:
            with _progress("rebuilding") as progress:
                batch = settings.rebuild_batch_rows_max
                return await rebuild(runtime.log, batch_max=batch, progress=progress)

    generation = _run(work())
    if json:
        render.as_json({"generation": generation})
    else:
        render.plain(f"generation {generation} answers now")


@contextlib.contextmanager
def _progress(what: str) -> Generator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=render.errors) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@app.command("user")
def user_command(
    application_id: Application,
    user_id: UserId,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """Show who a user is, or was."""
    settings = _settings()
    valid, known = _moment(valid_at, "--valid-at"), _moment(known_at, "--known-at")

    async def work() -> User | None:
        async with opened(settings, obtain(settings)) as runtime:
            stream = runtime.log.stream(application_id, user_id)
            if await runtime.log.is_erased(stream):
                raise _FailedError("the data of this user was erased")
            if valid is None and known is None:
                return await runtime.read_model.user(stream)
            return await runtime.read_model.user_at(stream, valid, known)

    found: User | None = _run(work())
    if found is None:
        raise _FailedError("no such user, or nothing known of them by that time")
    if json:
        render.as_json(found)
    else:
        render.user(found)


@app.command("history")
def history_command(
    application_id: Application,
    user_id: UserId,
    known_at: KnownAt = None,
    order: Annotated[Literal["asc", "desc"], typer.Option(help="Oldest or newest first.")] = "asc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Entries to show.")] = 100,
    after: Annotated[str | None, typer.Option(help="Go on after this mark.")] = None,
    json: Json = False,
) -> None:
    """Show what happened to a user, in the order in which it happened."""
    settings = _settings()
    known = _moment(known_at, "--known-at")

    async def work() -> Any:  # noqa: ANN401
        async with opened(settings, obtain(settings)) as runtime:
            stream = runtime.log.stream(application_id, user_id)
            if await runtime.log.is_erased(stream):
                raise _FailedError("the data of this user was erased")
            model = runtime.read_model
            page: dict[str, Any] = {"order": order, "limit": limit, "after": after}
            if known is not None:
                return await model.history_at(stream, known, **page)
            return await model.history(stream, **page)

    try:
        found = _run(work())
    except ValueError:
        raise typer.BadParameter("give back the mark unchanged", param_hint="--after") from None
    if not found.entries:
        raise _FailedError("no such user, or nothing known of them by that time")
    if json:
        render.as_json(found)
    else:
        render.history(found)


@app.command("send")
def send_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Deliveries; none: the documented samples.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where to; default: the local service.")] = None,
    json: Json = False,
) -> None:
    """Sign deliveries and post them, to try an endpoint."""
    settings = _settings()
    secret = obtain(settings).webhook_secrets[0]
    url = url or f"http://{settings.host}:{settings.port}{WEBHOOK_PATH}"
    try:
        sent: list[send.Sent] = _run(send.send(url, secret, files or []))
    except OSError as error:
        raise _FailedError(f"{error.filename} can't be read ({error.strerror})") from None
    if json:
        render.as_json(sent)
    else:
        render.sent(sent)
    if any(one.status != 200 for one in sent):  # noqa: PLR2004 - the one good answer
        raise _FailedError("not every delivery was answered with 200")


@app.command("status")
def status_command(json: Json = False) -> None:
    """Show how far the log and the read models have come."""
    settings = _settings()

    async def work() -> dict[str, Any]:
        async with opened(settings, obtain(settings)) as runtime:
            return await http.status(runtime)

    found = _run(work())
    if json:
        render.as_json(found)
    else:
        render.status(found)


@quarantine_app.command("list")
def quarantine_list(
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 50, json: Json = False
) -> None:
    """List the most recently seen, newest first."""
    settings = _settings()

    async def work() -> Any:  # noqa: ANN401
        async with opened(settings, obtain(settings)) as runtime:
            return await runtime.quarantine.list(limit)

    found = _run(work())
    if json:
        render.as_json(found)
    else:
        render.quarantine(found)


@quarantine_app.command("show")
def quarantine_show(
    key: Annotated[uuid.UUID, typer.Argument(metavar="ID", help="As listed.")], json: Json = False
) -> None:
    """Show one with its body, which may hold personal data."""
    settings = _settings()

    async def work() -> Any:  # noqa: ANN401
        async with opened(settings, obtain(settings)) as runtime:
            return await runtime.quarantine.show(key)

    found = _run(work())
    if found is None:
        raise _FailedError(f"nothing in quarantine has the id {key}")
    about, body = found
    text = body.decode(errors="backslashreplace")
    if json:
        render.as_json({**msgspec.structs.asdict(about), "body": text})
        return
    render.quarantine([about])
    render.plain(text)


@app.command("settings")
def settings_command(json: Json = False) -> None:
    """Show every setting, its value, origin and meaning; secrets stay hidden."""
    settings, origins = settings_module.load()
    rows: list[tuple[str, str, str, str, str]] = []
    for field in msgspec.structs.fields(Settings):
        meaning, example = settings_module.about(field)
        value = settings_module.shown(settings, field.name)
        rows.append((PREFIX + field.name.upper(), value, origins[field.name], meaning, example))
    columns = ("setting", "value", "origin", "meaning", "example")
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(columns, rows)
