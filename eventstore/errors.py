"""What can go wrong with the log, in terms a caller can act on."""

from __future__ import annotations

from contextlib import contextmanager
from socket import gaierror
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class LogError(Exception):
    """The log could not do what was asked."""


class UnavailableError(LogError):
    """The database can't be reached or refuses work for now; the same call may succeed later."""


class DiskError(UnavailableError):
    """The database can't use its disk: it is full, at a limit, or fails."""


class SchemaMovedError(UnavailableError):
    """The schema was upgraded, or changed, while this process ran."""

    def __init__(self) -> None:
        """The text says what to do."""
        super().__init__(
            "the schema of the database is not this version's any more: it was upgraded; stop this"
            " service and start the new version"
        )


class MasterKeyMovedError(UnavailableError):
    """The log needs a master key that this process does not have."""

    def __init__(self, needed: bytes, held: list[bytes], name: str = "master") -> None:
        """Take fingerprints, and which of the log's keys is meant; the text says what to do."""
        have = " and ".join(one.hex() for one in held)
        if name == "previous":
            what = (
                f"a rotation of the master key is unfinished, and the previous key ({needed.hex()})"
                f" is not set, only {have}: set USERLOG_PREVIOUS_MASTER_KEY to it and run"
                " `userlog rotate-master-key`"
            )
        else:
            what = (
                f"the log is written with the master key {needed.hex()}, and this process has"
                f" {have}: set USERLOG_MASTER_KEY to that one; if it is being rotated, set both"
            )
        super().__init__(f"{what} (the numbers are fingerprints, as `userlog doctor` shows them)")


class QueueFullError(UnavailableError):
    """More events wait to be appended than the queue's limit allows."""


class PlaceLostError(LogError):
    """A follower's place is none of this log: it is another one, or was restored to before."""


class QuarantineFullError(UnavailableError):
    """A delivery would have to be kept in quarantine, where there is no room for it."""


class SchemaError(LogError):
    """The database's schema is missing, or of another version."""


class OtherVersionError(SchemaError):
    """The database's schema is of an earlier or a later version."""

    def __init__(self, found: int, needed: int) -> None:
        """The text says what to do."""
        if found < needed:
            way_out = f"`userlog upgrade` brings it to version {needed}"
        else:
            way_out = (
                f"this userlog knows versions up to {needed}: run one that is as new as the"
                " database, or restore a backup from before it was upgraded; there is no downgrade"
            )
        super().__init__(f"the database has schema version {found}; {way_out}")
        self.found = found


class NotThereError(LogError):
    """There is no userlog at the place that is set, and what was asked does not make one."""


class LoginError(LogError):
    """The server can't be logged in to with the database URL that is set."""


class RightsError(LogError):
    """The database user lacks a right."""


class WrongKeyError(LogError):
    """The master key is not the one that the database was written with."""


class SealBrokenError(LogError):
    """A sealed payload or key does not open: altered, or sealed with another key."""


# A pooler in transaction mode, found out by a setting or a statement that is gone.
NOT_KEPT = (
    "a pooler in transaction mode stands before the database; userlog keeps settings and prepared"
    " statements in its sessions: connect past the pooler, or to a pool in session mode"
)
_OF_CONNECTIONS = (ConnectionError, TimeoutError, gaierror)
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
_OF_FILES = frozenset({"XX000", "42501"})
# PostgreSQL's code that uses files: of tables, of the write-ahead log, of transactions, temporary.
_FILE_ACCESS = frozenset({"md.c", "fd.c", "xlog.c", "slru.c", "buffile.c"})


def as_unavailable(error: Exception) -> UnavailableError | None:
    """Return an error that passes by itself (connection lost, server restarting) as that.

    The only place that knows which exceptions of the driver mean it. The new error's text carries
    the class of the old one and not its message, which may quote data. None for any other error.
    """
    if isinstance(error, UnavailableError):
        return error
    if _is_of_disk(error):
        found: UnavailableError = DiskError(f"the database is not available ({_reason(error)})")
    elif isinstance(error, _PASSING) and not isinstance(error, asyncpg.DataError):
        found = UnavailableError(f"the database is not available ({_reason(error)})")
    else:
        return None
    found.__cause__ = error
    return found


def _is_of_disk(error: Exception) -> bool:
    """Say whether PostgreSQL could not use a file.

    It calls a limit of sizes (EFBIG) or a quota (EDQUOT) an internal error, and a disk that has
    become read-only a missing right; only the place in its code tells.
    """
    if isinstance(error, asyncpg.DiskFullError | asyncpg.PostgresIOError):
        return True
    if not isinstance(error, asyncpg.InternalServerError | asyncpg.InsufficientPrivilegeError):
        return False
    return error.sqlstate in _OF_FILES and error.server_source_filename in _FILE_ACCESS


def _reason(error: Exception) -> str:
    match error:
        case gaierror():
            return "its host is not known; check USERLOG_DATABASE_URL"
        case ConnectionRefusedError() | FileNotFoundError():
            return "nothing listens at its address; start it, or check USERLOG_DATABASE_URL"
        case asyncpg.DiskFullError():
            return "no space left on the database's disk"
        case _ if _is_of_disk(error):
            return "the database can't use a file: its disk fails, or is at a quota or limit"
        case _:
            return type(error).__name__


def explained(error: Exception) -> LogError | None:
    """Return an error that a database is expected to raise as one whose text is for an operator.

    For the outermost caller: what passes by itself, a wrong login and a missing right, whichever
    statement met them. The text holds no password and quotes no data. None for any other error.
    """
    match error:
        case LogError():
            return error
        case OSError() if not isinstance(error, _OF_CONNECTIONS):
            return None  # of a file, most likely
        case _:
            return as_unavailable(error) or _refusal(error)


def _refusal(error: Exception) -> LogError | None:
    made = (make(error) for kinds, make in _REFUSALS if isinstance(error, kinds))
    return next(made, None)


_REFUSALS: tuple[tuple[tuple[type[Exception], ...], Callable[[Exception], LogError]], ...] = (
    (
        (asyncpg.InvalidCatalogNameError,),
        lambda _: LoginError(
            "the server has no database of the name in USERLOG_DATABASE_URL (for the owner's work"
            " USERLOG_OWNER_DATABASE_URL); create it, or correct the name"
        ),
    ),
    (
        (asyncpg.InvalidAuthorizationSpecificationError,),
        lambda error: LoginError(
            f"the database server refuses the login ({type(error).__name__}); check user and"
            " password in USERLOG_DATABASE_URL (for the owner's work USERLOG_OWNER_DATABASE_URL),"
            " and pg_hba.conf on the server"
        ),
    ),
    (
        (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError),
        lambda _: LoginError(NOT_KEPT),
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        lambda error: RightsError(
            f"the database user lacks a right ({error.args[0]}); init, upgrade, rebuild,"
            " rotate-master-key and token create need the owner of the schema"
            " (USERLOG_OWNER_DATABASE_URL), all else a user who was granted userlog_app"
        ),
    ),
    (
        (
            asyncpg.UndefinedTableError,
            asyncpg.UndefinedColumnError,
            asyncpg.UndefinedFunctionError,
        ),
        lambda _: SchemaMovedError(),
    ),
    (
        (asyncpg.DatetimeFieldOverflowError,),  # by append(), and of no other statement
        lambda _: LogError(
            "recorded_at is more than five minutes ahead of the database server's clock: the"
            " clock is wrong, or the line was not exported; what came before it is imported"
        ),
    ),
)


@contextmanager
def database_errors() -> Generator[None]:
    """Raise errors of the driver that pass by themselves as UnavailableError."""
    try:
        yield
    except Exception as error:
        if away := as_unavailable(error):
            raise away from away.__cause__
        raise
