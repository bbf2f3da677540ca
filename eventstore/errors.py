"""What can go wrong with the log, in terms a caller can act on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Generator


class LogError(Exception):
    """The log could not do what was asked."""


class UnavailableError(LogError):
    """The database can't be reached or refuses work for now; the same call may succeed later."""


class QueueFullError(UnavailableError):
    """More events wait to be appended than the queue's limit allows."""


class SchemaError(LogError):
    """The database's schema is missing, or of another version."""


class WrongKeyError(LogError):
    """The master key is not the one that the database was written with."""


class SealBrokenError(LogError):
    """A sealed payload or key does not open: altered, or sealed with another key."""


_PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process was frozen, and taken over from
)


def as_unavailable(error: Exception) -> UnavailableError | None:
    """Return an error that passes by itself (connection lost, server restarting) as that.

    The only place that knows which exceptions of the driver mean it. The new error's text carries
    the class of the old one and not its message, which may quote data. None for any other error.
    """
    if isinstance(error, UnavailableError):
        return error
    if isinstance(error, asyncpg.DataError) or not isinstance(error, _PASSING):
        return None
    found = UnavailableError(f"the database is not available ({type(error).__name__})")
    found.__cause__ = error
    return found


@contextmanager
def database_errors() -> Generator[None]:
    """Raise errors of the driver that pass by themselves as UnavailableError."""
    try:
        yield
    except Exception as error:
        if away := as_unavailable(error):
            raise away from away.__cause__
        raise
