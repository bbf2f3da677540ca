"""Expected failures: the one line that each prints, and its exit code.

The only place that knows. A command lets the errors of the database and of the system pass, and
raises a FailedError for what it alone can know. What is not expected is a defect, and keeps its
traceback.
"""

from __future__ import annotations

from typing import NamedTuple

import typer

from api.cli.shared import FailedError, UsageError
from api.config.sources import SettingsError
from eventstore.errors import (
    LogError,
    LoginError,
    NotThereError,
    OtherVersionError,
    explained,
)
from eventstore.postgres.embedded import EmbeddedPostgresError
from eventstore.postgres.files import FileRefusedError
from eventstore.postgres.upgrade import UpgradeRunningError
from projections.fold.poison import PoisonError
from projections.rebuild.generations import RebuildRunningError

FAILED, WRONG_USE = 1, 2
# As the shell reports a program that SIGPIPE has ended, which is how others end when their reader
# has gone.
READER_GONE = 141


class Failure(NamedTuple):
    """How a command ends that could not do its work; without a line it says nothing."""

    code: int
    line: str = ""


# Errors that are texts for an operator as they are.
_EXPLAINED: tuple[tuple[type[Exception], int], ...] = (
    (FailedError, FAILED),
    (PoisonError, FAILED),
    (EmbeddedPostgresError, FAILED),
    (UsageError, WRONG_USE),
    (SettingsError, WRONG_USE),
    (FileRefusedError, WRONG_USE),
    (LoginError, WRONG_USE),
    (NotThereError, WRONG_USE),
    (OtherVersionError, WRONG_USE),
    (UpgradeRunningError, WRONG_USE),
    (RebuildRunningError, WRONG_USE),
    (LogError, FAILED),
)


def failure_of(error: BaseException) -> Failure | None:
    """Return how a command ends because of an error; None for a defect."""
    match error:
        case BaseExceptionGroup():
            return failure_of(error.exceptions[0])
        case KeyboardInterrupt():
            return Failure(FAILED, "interrupted")
        case BrokenPipeError():
            return Failure(READER_GONE)
        case typer.Abort():
            error = FailedError("not confirmed, nothing was changed; --yes confirms")
        case Exception():
            error = explained(error) or _of_system(error)
        case _:
            pass
    codes = (code for kind, code in _EXPLAINED if isinstance(error, kind))
    code = next(codes, None)
    return None if code is None else Failure(code, str(error))


def _of_system(error: Exception) -> Exception:
    if not isinstance(error, OSError):
        return error
    what = "can't read or write" if error.filename is None else f"can't use {error.filename}"
    return FailedError(f"{what} ({error.strerror or type(error).__name__})")
