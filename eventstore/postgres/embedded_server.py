"""The server process on a cluster: found, started, waited for until it accepts, and ended.

`postmaster.pid` names the process that serves and where its socket is. It is believed only while
that process runs `postgres -D` on this very directory: pids return after a reboot, files stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import asyncpg

from eventstore.postgres.embedded_cluster import Waiting
from eventstore.postgres.files import no_link, refuse_link

if TYPE_CHECKING:
    from eventstore.postgres.embedded_cluster import Cluster

# After this a shutdown does not wait for its own checkpoint any more; the next start recovers.
FAST_SHUTDOWN_S = 60.0
# After this the postmaster is killed. An immediate shutdown kills what lingers after 5 s; one that
# takes longer has a postmaster that does not run, or a child that no signal ends.
IMMEDIATE_SHUTDOWN_S = 10.0
# How long processes of a killed server may hold its shared memory before a start gives up.
_LEFTOVERS_S = 60.0
PROBE_S = 5.0
RETRY_S = 1.0

# A socket's path may have 107 bytes on Linux and 103 on macOS.
_SOCKET_DIR_BYTES_MAX = 103 - len("/.s.PGSQL.5432")
# A path that needs no quoting in a setting, a URL or a list of hosts.
_PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)

# Where TMPDIR does not fit either.
_SHORT = Path("/tmp")  # noqa: S108 - what is made there has a name of its own

SETTINGS: tuple[str, ...] = (
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "fsync=on",
    # After the crash of a backend PostgreSQL would recover within the same postmaster. A fast
    # shutdown during that recovery, before redo begins, never ends: the postmaster waits for the
    # checkpointer and the I/O workers, but sends them SIGTERM, which they ignore. So the postmaster
    # ends after a crash, having killed what still runs after 5 s, and is started again.
    "restart_after_crash=off",
    "autovacuum_naptime=10",  # seconds until the planner hears that a new table is not empty
    # The log must hold no personal data, and errors quote it in their message ("invalid input
    # syntax"), detail ("Key (email)=…") and statement. Clients get their errors in full anyway.
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
    "log_statement=none",
    "log_checkpoints=off",
)


class Postmaster(NamedTuple):
    pid: int
    socket_dir: Path | None  # None until it listens
    stopping: bool


class Server:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._socket_dir: Path | None = None
        self._last_seen: Postmaster | None = None

    async def serve(self) -> Path:
        """Start the server unless it runs; return its socket's directory once it accepts."""
        what = "PostgreSQL does not accept connections yet: starting, or recovering after a crash"
        waiting = Waiting(self._cluster.notice, what)
        child: subprocess.Popen[bytes] | None = None
        try:
            while (socket_dir := await self._accepting()) is None:
                if child is not None and child.poll() is not None:
                    await self._let_leftovers_end(waiting)
                    child = None
                if child is None:
                    child = await self._replace(self._find())
                await waiting.tick()
        except BaseException:
            if child is not None:
                await self._halt(Postmaster(child.pid, self._socket_dir, stopping=False))
            raise
        self._socket_dir = socket_dir
        return socket_dir

    async def stop(self) -> None:
        """Stop the server, if there is one.

        A server that ends removes its `postmaster.pid` before its process is gone.
        """
        if (postmaster := self._find() or self._last_seen) is not None:
            await self._halt(postmaster)

    def is_there(self) -> bool:
        return self._find() is not None

    async def _accepting(self) -> Path | None:
        postmaster = self._find()
        if postmaster is None or postmaster.socket_dir is None:
            return None
        try:
            connection = await asyncpg.connect(url_of(postmaster.socket_dir), timeout=PROBE_S)
            await connection.close(timeout=PROBE_S)
        except (OSError, asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError):
            return None
        except asyncpg.PostgresError:
            pass  # it answers; what it objects to is for the caller to meet
        return postmaster.socket_dir

    async def _let_leftovers_end(self, waiting: Waiting) -> None:
        """Wait a little after a start that failed only because a killed server is not all gone."""
        failure = self._cluster.failure("PostgreSQL did not start")
        if "pre-existing shared memory" not in str(failure) or waiting.seconds > _LEFTOVERS_S:
            raise failure
        self._cluster.notice("processes of a killed PostgreSQL are still ending; waiting for them")
        await asyncio.sleep(RETRY_S)

    async def _replace(self, postmaster: Postmaster | None) -> subprocess.Popen[bytes] | None:
        """Start a server unless there is one that will serve.

        One that is stopping will not accept again. It may hang, with the process gone that would
        have ended it.
        """
        if postmaster is not None and not postmaster.stopping:
            return None
        if postmaster is not None:
            self._socket_dir = self._socket_dir or postmaster.socket_dir
            await self._end(postmaster)
        return self._launch()

    async def _halt(self, postmaster: Postmaster) -> None:
        """Shut the server down and clear away its directory; one that is not there is fine."""
        await self._end(postmaster)
        if postmaster.socket_dir is not None:
            with contextlib.suppress(OSError):  # not empty: then it is not only ours
                postmaster.socket_dir.rmdir()

    async def _end(self, postmaster: Postmaster) -> None:
        waiting = Waiting(self._cluster.notice, "PostgreSQL is shutting down")
        with contextlib.suppress(ProcessLookupError):
            while self._is_postmaster(postmaster.pid):
                os.kill(postmaster.pid, _shutdown_signal(waiting.seconds))
                await waiting.tick()

    def _find(self) -> Postmaster | None:
        """The cluster's server; None if `postmaster.pid` is missing, stale or cut off."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].isdecimal() or not self._is_postmaster(int(lines[0])):
            return None
        socket_dir = "".join(lines[4:5])
        stopping = "".join(lines[7:8]).strip() == "stopping"
        path = Path(socket_dir) if socket_dir else None
        self._last_seen = Postmaster(int(lines[0]), path, stopping)
        return self._last_seen

    def _pid_file_lines(self) -> list[str]:
        """The complete lines; what follows the last line end is not all there yet."""
        try:
            with open(
                self._pid_file, encoding="utf-8", errors="surrogateescape", opener=no_link
            ) as file:
                text = file.read()
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    @property
    def _pid_file(self) -> Path:
        return self._cluster.path / "postmaster.pid"

    def _is_postmaster(self, pid: int) -> bool:
        return f"postgres -D {self._cluster.path} " in _command_line(pid)

    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the server, none being there, whatever files an earlier one left behind."""
        self._drop_misleading_pid_file()
        self._socket_dir = self._make_socket_dir()
        settings = (*SETTINGS, f"unix_socket_directories={self._socket_dir}")
        options = [word for setting in settings for word in ("-c", setting)]
        return self._cluster.spawn("postgres", "-D", str(self._cluster.path), *options)

    def _drop_misleading_pid_file(self) -> None:
        """Remove a `postmaster.pid` that PostgreSQL would refuse: cut off, or of a stranger's pid.

        One that names a dead process stays, for PostgreSQL checks the shared memory it names. That
        check finds leftovers of a killed server without the file too, by the directory's inode.
        """
        pid = "".join(self._pid_file_lines()[:1])
        if not pid.isdecimal() or _signalable(int(pid)):
            self._pid_file.unlink(missing_ok=True)

    def _make_socket_dir(self) -> Path:
        """Make a private directory: in the data directory if that path fits, else aside.

        A server that is started again gets the one it had: its clients know that one.
        """
        if self._socket_dir is not None and self._socket_dir.is_dir():
            return self._socket_dir
        path = self._cluster.data_dir / "postgres.socket"
        refuse_link(path)
        shutil.rmtree(path, ignore_errors=True)
        if _takes_a_socket(path):
            path.mkdir(mode=0o700)
        else:
            aside = Path(tempfile.gettempdir()).resolve()
            aside = aside if _takes_a_socket(aside / "userlog-12345678") else _SHORT
            path = Path(tempfile.mkdtemp(prefix="userlog-", dir=aside))
        self._cluster.give(path)
        return path


def _takes_a_socket(path: Path) -> bool:
    short = len(os.fsencode(path)) <= _SOCKET_DIR_BYTES_MAX
    return short and _PLAIN_PATH.fullmatch(str(path)) is not None


# What the driver would take from PG* variables, which are about some other server.
_NOT_OF_THE_SHELL = {
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "target_session_attrs": "any",
    "krbsrvname": "postgres",
    "gsslib": "gssapi",
}


def url_of(socket_dir: Path) -> str:
    query = urlencode({"host": socket_dir, "port": 5432, **_NOT_OF_THE_SHELL}, safe="/")
    return f"postgresql://postgres@/postgres?{query}"


def _shutdown_signal(seconds: float) -> signal.Signals:
    """The signal for a postmaster that has been shutting down for so long."""
    if seconds <= FAST_SHUTDOWN_S:
        return signal.SIGINT
    return signal.SIGQUIT if seconds <= FAST_SHUTDOWN_S + IMMEDIATE_SHUTDOWN_S else signal.SIGKILL


def _command_line(pid: int) -> str:
    """A process's command line; empty if there is none or it has ended, reaped or not."""
    if sys.platform != "linux":
        command = ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 (a number)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return os.fsdecode(words.replace(b"\0", b" "))


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return False
    return True
