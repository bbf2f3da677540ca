"""The command `userlog`.

Exit codes: 0 success, 1 what was checked does not hold or could not be done, 2 wrong usage or
settings. An expected failure prints one line, never a traceback.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from api.cli import log, output, quarantine, read_models, rebuild, service, token, users
from api.cli.command import FailedError
from api.config.settings import SettingsError
from eventstore.errors import LogError
from eventstore.postgres.embedded import EmbeddedPostgresError
from projections.fold.poison import PoisonError
from projections.rebuild.generations import RebuildRunningError

app = typer.Typer(
    name="userlog",
    help="Who your users are, what happened to them, and what was known when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (service.app, rebuild.app, users.app, read_models.app, log.app):
    app.add_typer(commands)
app.add_typer(quarantine.app, name="quarantine", help="Signed deliveries that could not be read.")
app.add_typer(token.app, name="token", help="Who may ask.")


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
