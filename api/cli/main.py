"""The command `userlog`, put together from the groups of commands.

To add a command: a function in the module that is about the same thing, such as `users`, with the
`rich_help_panel` below which --help lists it; nothing here.

Exit codes: 0 success, 1 what was checked does not hold or could not be done, 2 wrong usage or
settings, 141 the reader of the output has gone. An expected failure prints one line, never a
traceback; `failures` has them all.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import sys
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from api.cli import (
    backup,
    doctor,
    erasure,
    log,
    output,
    parked,
    people,
    quarantine,
    rebuild,
    service,
    streams,
    token,
    upgrade,
    users,
    verify,
)
from api.cli.failures import failure_of
from api.cli.shared import ACCESS, GROUPS, USERS, WATCH, UsageError
from api.observe.visible import visible
from eventstore.postgres.schema import SCHEMA_VERSION
from projections.fold.state import FOLD_VERSION
from projections.subprocesses import GARBAGE


class _Grouped(typer.core.TyperGroup):
    """Lists the commands by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            groups[_title(command)].append((name, command.get_short_help_str(limit=60)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _title(command: Any) -> str:  # noqa: ANN401 - typer's own click
    if command.rich_help_panel in GROUPS:
        return str(command.rich_help_panel)
    msg = f"the command {command.name} needs a rich_help_panel of api/cli/shared.py"
    raise TypeError(msg)


app = typer.Typer(
    name="userlog",
    cls=_Grouped,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (
    *(service.app, upgrade.app, doctor.app, rebuild.app, users.app, people.app, parked.app),
    *(log.app, verify.app, erasure.app, backup.app),
):
    app.add_typer(commands)
app.add_typer(
    quarantine.app,
    name="quarantine",
    help="Deliveries that could not be read.",
    rich_help_panel=WATCH,
)
app.add_typer(people.users, name="users", help="All users at once.", rich_help_panel=USERS)
app.add_typer(
    token.app, name="token", help="Tokens for the HTTP interface.", rich_help_panel=ACCESS
)


def _show_version(wanted: bool) -> None:
    if wanted:
        program = metadata.version("userlog")
        output.plain(f"userlog {program}, schema {SCHEMA_VERSION}, fold {FOLD_VERSION}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the versions and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Who your users are, what happened to them, and what was known when."""


def main() -> NoReturn:
    """Run the command line; the exit code tells how it went."""
    gc.set_threshold(GARBAGE)
    atexit.register(gc.freeze)  # else the end of each command goes through all that was imported
    streams.prepare()
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except BaseException as error:
        found = failure_of(error)
        if found is None:
            raise
        code = found.code
        if found.line:
            with contextlib.suppress(OSError):
                output.error(f"userlog: {found.line}")
    streams.give_up()
    sys.exit(code)


@functools.cache
def command_line() -> Any:  # noqa: ANN401 - typer's own click
    """Make it of all that is declared: once, as that takes 10 ms."""
    return typer.main.get_command(app)


def _run(arguments: list[str]) -> int:
    """Run a command, without what typer would do with an error; return its exit code."""
    for number, text in enumerate(arguments, 1):
        if any("\udc80" <= char <= "\udcff" for char in text):  # a byte that is no character
            raise UsageError(f"argument {number} is not UTF-8")
    command = command_line()
    try:
        with command.make_context("userlog", arguments) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as wrong:
        shown: Any = wrong  # the public name of the class that has `show`
        _show(shown)
        return wrong.exit_code
    return 0


def _show(wrong: Any) -> None:  # noqa: ANN401 - typer's own click
    """Show what is wrong with the arguments; a line break in one that is quoted is not ours."""
    if wrong.ctx is None or wrong.message != wrong.ctx.get_help():
        wrong.message = visible(wrong.message)
    wrong.show()
