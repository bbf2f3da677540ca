"""The command `userlog`.

Exit codes: 0 success, 1 what was checked does not hold or could not be done, 2 wrong usage or
settings. An expected failure prints one line, never a traceback.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer
import typer.core

from api.cli import log, output, quarantine, read_models, rebuild, service, token, users
from api.cli.command import FailedError
from api.config.settings import SettingsError
from eventstore.errors import LogError
from eventstore.postgres.embedded import EmbeddedPostgresError
from projections.fold.poison import PoisonError
from projections.rebuild.generations import RebuildRunningError

# The commands by what they are for, in the order of the help.
_GROUPS = {
    "Run the service": ("serve", "init", "project", "send", "settings"),
    "Look up users": ("user", "history", "stats"),
    "Watch and repair": ("status", "quarantine", "parked", "rebuild"),
    "Keep the log": ("verify", "export", "import", "erase", "rotate-master-key"),
    "Give access": ("token",),
}


class _Grouped(typer.core.TyperGroup):
    """Lists the commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click
        for title, names in _GROUPS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(n, c.get_short_help_str(limit=60)) for n, c in commands if c is not None]
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    name="userlog",
    cls=_Grouped,
    help="Who your users are, what happened to them, and what was known when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (service.app, rebuild.app, users.app, read_models.app, log.app):
    app.add_typer(commands)
app.add_typer(quarantine.app, name="quarantine", help="Deliveries that could not be read.")
app.add_typer(token.app, name="token", help="Tokens for the HTTP interface.")


def main() -> NoReturn:
    """Run the command line; the exit code tells how it went."""
    try:
        app()
    except (SettingsError, RebuildRunningError) as error:
        _exit(error, 2)
    except (FailedError, LogError, PoisonError, EmbeddedPostgresError) as error:
        _exit(error, 1)
    except BrokenPipeError:
        sys.stdout = None
    sys.exit(0)


def _exit(error: Exception, code: int) -> NoReturn:
    output.errors.print(f"userlog: {error}", markup=False, soft_wrap=True)
    sys.exit(code)
