"""What the commands share: settings, running, options, progress."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import structlog
import typer
import uvloop
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from api.cli import output
from api.config import settings as settings_module
from api.config.secret_files import obtain
from api.observe import logs
from api.observe.visible import visible
from api.runtime import opened, require_data
from api.web.times import parse_time
from eventstore.audit import Actor
from eventstore.postgres import url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from datetime import datetime

    from api.config.secret_files import Secrets
    from api.config.settings import Settings
    from api.runtime import Runtime

T = TypeVar("T")
_REASON_MAX = 500
_log = structlog.stdlib.get_logger("userlog")
LogLevel = Literal["debug", "info", "warning", "error"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Application = Annotated[str, typer.Argument(help="The sales channel's application id.")]
UserId = Annotated[str, typer.Argument(help="The user's id.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


# What commands are for, in the order of the help.
SERVICE = "Run the service"
USERS = "Look up users"
WATCH = "Watch and repair"
LOG = "Keep the log"
ACCESS = "Give access"
GROUPS = (SERVICE, USERS, WATCH, LOG, ACCESS)


class FailedError(Exception):
    """Ends a command with one line and exit code 1."""


class UsageError(Exception):
    """Ends a command with one line and exit code 2."""


class StoppedError(FailedError):
    """The command was interrupted, with Ctrl-C or another signal."""


def new_group() -> typer.Typer:
    """Make a group of commands."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def read_settings(log_level: LogLevel | None = "warning", **given: Any) -> Settings:  # noqa: ANN401 - as in Settings
    """Read the settings; a command that ends by itself logs warnings only, unless set otherwise."""
    settings, origins = settings_module.load(**given)
    level = settings.log_level
    if log_level is not None and origins["log_level"] == "default":
        level = log_level
    logs.configure(level, settings.log_format)
    for variable, text in settings_module.urls_of(settings).items():
        if names := url.ignored(text):
            _log.warning(f"parameters of {variable} are ignored", parameters=names)
    return settings


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; a signal that ends the command lets it clean up first."""
    try:
        return uvloop.run(_until_signal(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise StoppedError("interrupted") from None


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Let other signals do what Ctrl-C does, unless they are ignored, as by nohup.

    A service hears them by itself.
    """
    task = asyncio.current_task()
    if task and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def with_runtime(
    work: Callable[[Runtime], Awaitable[T]], *, owner: bool = False, create: bool = False
) -> T:
    """Open everything, do the work, close everything; return what the work returns.

    With `create` an embedded database is made in a data directory that is empty or missing.
    """
    settings = read_settings()
    create = create and not any(Path(settings.data_dir).glob("*"))
    secrets = secrets_there(settings, create=create)

    async def inside() -> T:
        async with opened(settings, secrets, owner=owner, create=create) as runtime:
            return await work(runtime)

    return run(inside())


def secrets_there(settings: Settings, *, create: bool = False) -> Secrets:
    """Return the secrets; NotThereError if the database is embedded and there is none."""
    if not create:
        require_data(settings)
    return obtain(settings, create=create)


def option(name: str, rule: Callable[[str], T], text: str | None) -> T | None:
    """Read an option with a rule for parameters."""
    if text is None:
        return None
    try:
        return rule(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def time_option(text: str | None, name: str) -> datetime | None:
    """Read a time given as an option."""
    return option(name, parse_time, text)


def operator(kind: Literal["command", "import"] = "command") -> Actor:
    """Name the system user who runs the command, for the audit; behind sudo, who called it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        name = str(os.getuid())
    called_by = os.environ.get("SUDO_USER", "")
    return Actor(kind, f"{called_by} as {name}" if called_by else name)


def check_reason(text: str) -> None:
    """Refuse a reason that is too long for the audit."""
    if len(text) > _REASON_MAX:
        problem = f"at most {_REASON_MAX} characters"
        raise typer.BadParameter(problem, param_hint="--reason")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that can't be undone."""
    if not yes:
        typer.confirm(visible(question), abort=True)


@contextlib.contextmanager
def progress(what: str) -> Generator[Callable[[int, int], None]]:
    """Show a bar on standard error while it lasts; call what it yields with (done, in all).

    Only in a terminal: elsewhere standard error is for what went wrong.
    """
    columns = (
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = output.errors.is_terminal
    with Progress(*columns, console=output.errors, transient=True, disable=not shown) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
