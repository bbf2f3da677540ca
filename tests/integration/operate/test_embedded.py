"""Real processes on real files: each test ends with a check that no server is left running."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from eventstore.postgres import embedded, embedded_cluster, embedded_server
from eventstore.postgres.embedded import EmbeddedPostgresError, psql_path, running
from eventstore.postgres.embedded_account import system_account
from eventstore.postgres.embedded_server import Server
from eventstore.postgres.files import FileRefusedError
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

ROOT = Path(embedded.__file__).parents[2]
# The kernel's overflow uid, which has an account everywhere.
NOBODY = 65534
USER = """
import asyncio, sys
from pathlib import Path
from eventstore.postgres.files import FileRefusedError
from eventstore.postgres import embedded, embedded_cluster

def show(line):
    print(line, flush=True)

async def main():
    embedded_cluster.NOTICE_S = 0.01
    async with embedded.running(Path(sys.argv[1]), notice=show) as url:
        show(url)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


class User:
    """Another process that uses the server until it is asked to leave, or killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, data_dir: Path) -> User:
        pipe = asyncio.subprocess.PIPE
        arguments = (sys.executable, "-c", USER, str(data_dir))
        return cls(
            await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, cwd=ROOT)
        )

    async def prints(self, beginning: str) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stdout.readline()).decode():
                if line.startswith(beginning):
                    return line.rstrip()
        pytest.fail(f"the other process ended without printing {beginning!r}")

    async def ready(self) -> str:
        return await self.prints("postgresql://")

    async def leave(self) -> None:
        await self.process.communicate(b"")  # without input it would leave stdin open
        assert self.process.returncode == 0

    async def die(self) -> None:
        self.process.kill()
        await self.process.communicate()


def quiet(_line: str) -> None:
    pass


def processes(data_dir: Path) -> list[int]:
    """All processes of the wheel's programs that work on `data_dir`."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            of_wheel = (process / "exe").readlink().parent == psql_path().parent
            words = (process / "cmdline").read_bytes() + os.fsencode((process / "cwd").readlink())
        except OSError:
            continue
        if of_wheel and os.fsencode(data_dir) in words:
            found.append(int(process.name))
    return found


async def ended(*pids: int) -> None:
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        end = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, end.set)
        async with asyncio.timeout(PATIENCE_S):
            await end.wait()
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await ended(*pids)


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def socket_dir(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(data_dir: Path) -> list[Path]:
    return [path for path in data_dir.iterdir() if path.is_file()]


def unfinished(data_dir: Path) -> list[Path]:
    return list(data_dir.glob("postgres.new-*"))


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(url: str, query: str) -> object:
    async with connected(url) as connection:
        return await connection.fetchval(query)


@pytest.fixture
def new_dir() -> Iterator[Path]:
    """A data directory that does not exist yet, in a directory that is closed to other accounts."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent).resolve() / "data"
        yield path
        left = processes(path)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert left == []


@pytest.fixture(scope="module")
async def made() -> AsyncGenerator[Path]:
    """A data directory with a cluster and no server, only to be copied."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "data"
        async with running(path, notice=quiet):
            pass
        yield path


@pytest.fixture
def data_dir(new_dir: Path, made: Path) -> Path:
    """A data directory with a cluster of its own and no server."""
    subprocess.run(["/bin/cp", "-a", made, new_dir], check=True)
    return new_dir


async def test_data_outlives_the_server(new_dir: Path) -> None:
    """What was committed is there after the server was stopped and started again."""
    async with running(new_dir, notice=quiet) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 1 AS one")
    assert processes(new_dir) == []
    async with running(new_dir, notice=quiet) as url:
        assert await ask(url, "SELECT one FROM kept") == 1


async def test_the_cluster_is_durable_and_portable(data_dir: Path) -> None:
    """Syncing and checksums are on, text is UTF-8 in an order no system library decides."""
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SHOW fsync") == "on"
        assert await ask(url, "SHOW data_checksums") == "on"
        assert await ask(url, "SHOW server_encoding") == "UTF8"
        order = "SELECT datlocale FROM pg_database WHERE datname = 'postgres' AND datcollate = 'C'"
        assert await ask(url, order) == "C.UTF-8"


async def test_variables_of_the_shell(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PG* variables are about some other server: here they change nothing."""
    for name, value in {
        "PGHOST": "nowhere",
        "PGPORT": "1",
        "PGUSER": "x",
        "PGDATABASE": "y",
        "PGPASSWORD": "z",
        "PGSSLMODE": "verify-full",
        "PGSSLNEGOTIATION": "direct",
        "PGGSSLIB": "x",
        "PGTARGETSESSIONATTRS": "standby",
        "PGSERVICE": "none",
        "PGOPTIONS": "-c nothing=1",
    }.items():
        monkeypatch.setenv(name, value)
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT current_user || current_database()") == "postgrespostgres"


async def test_only_the_owner_reaches_the_server(data_dir: Path) -> None:
    """The socket's directory is private, other files too, and no network address listens."""
    async with running(data_dir, notice=quiet) as url:
        assert socket_dir(url).parent == data_dir
        assert mode(socket_dir(url)) == 0o700
        assert await ask(url, "SHOW listen_addresses") == ""
        assert {mode(file) for file in files(data_dir)} == {0o600}
        assert mode(data_dir) & 0o066 == 0


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(data_dir: Path) -> None:
    """The server runs in a session of its own."""
    async with running(data_dir, notice=quiet):
        assert os.getsid(postmaster(data_dir)) != os.getsid(0)


async def test_the_server_is_deaf_to_our_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that are meant for clients change nothing about the server."""
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("LC_ALL", "no-such-locale")
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SHOW port") == "5432"


async def test_no_personal_data_in_the_log(data_dir: Path) -> None:
    """The server's log quotes no values: not from an error's message or detail, not from SQL."""
    async with running(data_dir, notice=quiet) as url, connected(url) as connection:
        await connection.execute("CREATE TABLE people (email text PRIMARY KEY)")
        await connection.execute("INSERT INTO people VALUES ('grace@example.com')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO people VALUES ('grace@example.com')")
        with pytest.raises(asyncpg.InvalidTextRepresentationError, match="grace"):
            await connection.execute("SELECT 'grace@example.com'::integer")
        with pytest.raises(asyncpg.RaiseError, match="grace"):
            await connection.execute("DO $$ BEGIN RAISE 'grace@example.com'; END $$")
        await connection.execute("SELECT 'grace@example.com'")
        await kill(await connection.fetchval("SELECT pg_backend_pid() /* grace */"))
        connection.terminate()  # closing would write to a process that is gone
    log = (data_dir / "postgres.log").read_text()
    assert "terminated by signal 9" in log
    assert "grace" not in log


async def test_psql_is_there_for_people(data_dir: Path) -> None:
    """The wheel's psql accepts the URL as it is."""
    async with running(data_dir, notice=quiet) as url:
        psql = await asyncio.create_subprocess_exec(
            psql_path(), url, "-XAtc", "SELECT 6 * 7", stdout=asyncio.subprocess.PIPE
        )
        assert (await psql.communicate())[0] == b"42\n"


@pytest.mark.parametrize("name", ["long" * 40, "a, b's 100%ä"])
async def test_any_path_will_do(new_dir: Path, name: str) -> None:
    """A path too long or too odd for a socket gets a private directory elsewhere, then removed."""
    async with running(new_dir / name, notice=quiet) as url:
        elsewhere = socket_dir(url)
        assert new_dir not in elsewhere.parents
        assert mode(elsewhere) == 0o700
        user = await User.start(new_dir / name)
        assert await user.ready() == url
        await user.leave()
        assert await ask(url, "SELECT 1") == 1
    assert not elsewhere.exists()


@pytest.mark.parametrize("name", ["long" * 40, "a, b's 100%ä"])
async def test_any_folder_for_temporary_files_will_do(
    new_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too long or too odd for a socket is passed over."""
    aside = new_dir / name
    aside.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    async with running(aside / "data", notice=quiet) as url:
        elsewhere = socket_dir(url)
        assert await ask(url, "SELECT 1") == 1
    assert not elsewhere.exists()


async def test_who_starts_the_server_may_leave_first(data_dir: Path) -> None:
    """A server that this process started goes on for another one, which stops it at last."""
    async with running(data_dir, notice=quiet) as url:
        user = await User.start(data_dir)
        assert await user.ready() == url
        server = postmaster(data_dir)
    assert await ask(url, "SELECT 1") == 1
    await user.leave()
    assert server not in processes(data_dir)


async def test_who_joins_may_stay_longer(data_dir: Path) -> None:
    """A server that another process started goes on for this one, which stops it at last."""
    user = await User.start(data_dir)
    await user.ready()
    async with running(data_dir, notice=quiet) as url:
        await user.leave()
        assert await ask(url, "SELECT 1") == 1
    assert processes(data_dir) == []


async def test_many_at_once_share_one_server(new_dir: Path) -> None:
    """Processes that come at the same time make one cluster and one server; the last stops it."""
    users = [await User.start(new_dir) for _ in range(4)]
    urls = await asyncio.gather(*(user.ready() for user in users))
    assert len(set(urls)) == 1
    await asyncio.gather(*(user.leave() for user in users))
    assert processes(new_dir) == []


async def test_a_server_without_users_is_adopted(data_dir: Path) -> None:
    """After its only user was killed a server serves the next one, who stops it."""
    user = await User.start(data_dir)
    await user.ready()
    server = postmaster(data_dir)
    await user.die()
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT 1") == 1
        assert postmaster(data_dir) == server
    assert processes(data_dir) == []


async def test_commits_survive_a_killed_server(data_dir: Path) -> None:
    """A server killed while in use costs an error, not data; leaving and returning is enough."""
    async with running(data_dir, notice=quiet) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 1 AS one")
        await kill(postmaster(data_dir))
        with pytest.raises(OSError, match=r"refused|No such file"):
            await ask(url, "SELECT 1")
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT one FROM kept") == 1


@pytest.mark.parametrize("pid_file", ["kept", "lost"])
async def test_what_is_left_of_a_killed_server_is_waited_for(data_dir: Path, pid_file: str) -> None:
    """No server starts while a process of a killed one still has the data open."""
    waits = asyncio.Event()

    def hear(line: str) -> None:
        if "still ending" in line:
            waits.set()

    async with running(data_dir, notice=quiet) as url, connected(url) as connection:
        backend = int(await connection.fetchval("SELECT pg_backend_pid()"))
        os.kill(backend, signal.SIGSTOP)
        await kill(postmaster(data_dir))
        if pid_file == "lost":
            (data_dir / "postgres" / "postmaster.pid").unlink()
        connection.terminate()
    async with running_soon(data_dir, hear) as entering:
        async with asyncio.timeout(PATIENCE_S):
            await waits.wait()
        os.kill(backend, signal.SIGCONT)
        assert await ask(await entering, "SELECT 1") == 1


async def test_starting_has_no_time_limit(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live server that does not answer is waited for, with a notice now and then."""
    monkeypatch.setattr(embedded_cluster, "NOTICE_S", 0.1)
    monkeypatch.setattr(embedded_server, "PROBE_S", 0.1)
    lines: asyncio.Queue[str] = asyncio.Queue()
    user = await User.start(data_dir)
    await user.ready()
    os.kill(postmaster(data_dir), signal.SIGSTOP)
    async with running_soon(data_dir, lines.put_nowait) as entering:
        for _ in range(3):
            async with asyncio.timeout(PATIENCE_S):
                assert "recovering after a crash" in await lines.get()
        os.kill(postmaster(data_dir), signal.SIGCONT)
        assert await ask(await entering, "SELECT 1") == 1
        await user.leave()


@asynccontextmanager
async def running_soon(
    data_dir: Path, notice: Callable[[str], None]
) -> AsyncGenerator[asyncio.Future[str]]:
    """Enter `running` in a task; yield a future of the URL."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def use() -> None:
        async with running(data_dir, notice=notice) as found:
            url.set_result(found)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(use())
        yield url
        leave.set()


@pytest.mark.parametrize("stale", ["", "12", "{stranger}\n/elsewhere\n1\n5432\n/tmp\n"])
async def test_a_stale_pid_file_does_not_prevent_a_start(data_dir: Path, stale: str) -> None:
    """Neither a cut-off `postmaster.pid` nor one whose process is by now another program."""
    async with running(data_dir, notice=quiet):
        pass
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    pid_file = data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(stale.format(stranger=stranger.pid))
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT 1") == 1
    await stranger.communicate(b"\n")
    assert stranger.returncode == 0


async def test_a_killed_initdb_leaves_nothing_half_made(new_dir: Path) -> None:
    """A cluster is there whole or not at all, and what a killed start left is cleared away."""
    user = await User.start(new_dir)
    await user.prints("PostgreSQL is creating its cluster")
    await user.die()
    async with asyncio.timeout(PATIENCE_S):
        while left := processes(new_dir):  # initdb's own children come and go
            await kill(*left)
    assert unfinished(new_dir) != []
    assert not (new_dir / "postgres").exists()
    async with running(new_dir, notice=quiet) as url:
        assert await ask(url, "SELECT 1") == 1
    assert unfinished(new_dir) == []


@pytest.mark.parametrize("moment", ["creating its cluster", "does not accept connections yet"])
async def test_cancelling_a_start_stops_it(
    new_dir: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any moment of a start stops what it has started."""
    monkeypatch.setattr(embedded_cluster, "NOTICE_S", 0.01)

    def interrupt(line: str) -> None:
        if moment in line:
            task.cancel()

    async def start() -> None:
        async with running(new_dir, notice=interrupt):
            pytest.fail("the server started before it was cancelled")

    task = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes(new_dir) == []


async def test_cancelling_a_start_ends_an_initdb_that_does_not_run(
    new_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An initdb that heeds no signal is killed, and what it made is removed."""
    monkeypatch.setattr(embedded_cluster, "NOTICE_S", 0.01)
    stopped: list[int] = []

    def stop_and_interrupt(line: str) -> None:
        if "creating its cluster" in line and not stopped:
            stopped.extend(processes(new_dir))
            for pid in stopped:
                with suppress(ProcessLookupError):  # initdb's helpers come and go
                    os.kill(pid, signal.SIGSTOP)
            task.cancel()

    async def start() -> None:
        async with running(new_dir, notice=stop_and_interrupt):
            pytest.fail("the server started before it was cancelled")

    task = asyncio.create_task(start())
    await asyncio.wait([task], timeout=20)
    assert task.cancelled()
    await ended(*stopped)
    assert unfinished(new_dir) == []


async def test_cancelling_a_start_before_the_server_wrote_its_pid(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is only just coming up is stopped as well."""
    launch = Server._launch

    def launch_and_interrupt(server: Server) -> subprocess.Popen[bytes]:
        task.cancel()
        return launch(server)

    async def start() -> None:
        async with running(data_dir, notice=quiet):
            pytest.fail("the server started before it was cancelled")

    monkeypatch.setattr(Server, "_launch", launch_and_interrupt)
    task = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes(data_dir) == []


async def test_a_shutdown_that_hangs_is_cut_short(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a process that does not end is stopped all the same, and loses nothing."""
    async with running(data_dir, notice=quiet) as url, connected(url) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        os.kill(await connection.fetchval("SELECT pg_backend_pid()"), signal.SIGSTOP)
        monkeypatch.setattr(embedded_server, "FAST_SHUTDOWN_S", 0.1)
        connection.terminate()
    assert processes(data_dir) == []
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT one FROM kept") == 1


async def test_a_postmaster_that_does_not_run_is_ended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A postmaster that heeds no signal is killed at last, and loses nothing."""
    monkeypatch.setattr(embedded_server, "FAST_SHUTDOWN_S", 0.1)
    monkeypatch.setattr(embedded_server, "IMMEDIATE_SHUTDOWN_S", 0.1)
    async with asyncio.timeout(20), running(data_dir, notice=quiet) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 1 AS one")
        server = processes(data_dir)
        os.kill(postmaster(data_dir), signal.SIGSTOP)
    await ended(*server)
    async with running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT one FROM kept") == 1


async def test_a_server_that_hangs_in_stopping_does_not_keep_others_from_starting(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server left behind in the middle of its shutdown is ended, and another one started."""
    monkeypatch.setattr(embedded_server, "FAST_SHUTDOWN_S", 0.1)
    user = await User.start(data_dir)
    url = await user.ready()
    hanging, idle = await asyncpg.connect(url), await asyncpg.connect(url)
    await hanging.execute("CREATE TABLE kept AS SELECT 1 AS one")
    await user.die()
    os.kill(hanging.get_server_pid(), signal.SIGSTOP)
    os.kill(postmaster(data_dir), signal.SIGINT)
    await ended(idle.get_server_pid())
    async with asyncio.timeout(20), running(data_dir, notice=quiet) as url:
        assert await ask(url, "SELECT one FROM kept") == 1
    hanging.terminate()
    idle.terminate()


async def test_a_connection_that_hangs_does_not_hold_up_a_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that asks whether the server accepts has a time limit to its very end."""
    monkeypatch.setattr(embedded_server, "PROBE_S", 0.5)
    connect = asyncpg.connect
    stopped: list[int] = []

    async def connect_and_stop(url: str, timeout: float) -> asyncpg.Connection[asyncpg.Record]:  # noqa: ASYNC109 - as the driver's
        connection = await connect(url, timeout=timeout)
        if not stopped:
            stopped.append(connection.get_server_pid())
            os.kill(stopped[0], signal.SIGSTOP)
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect_and_stop)
    async with asyncio.timeout(20), running(data_dir, notice=quiet):
        os.kill(stopped[0], signal.SIGCONT)


async def test_stopping_during_the_recovery_from_a_crash_is_quick(data_dir: Path) -> None:
    """A server whose backend was killed is stopped at once all the same, and loses nothing."""
    for number in range(5):
        async with asyncio.timeout(20), running(data_dir, notice=quiet) as url:
            await ask(url, f"CREATE TABLE kept_{number} AS SELECT 1 AS one")
            backend = await asyncpg.connect(url)
            children = set(processes(data_dir)) - {postmaster(data_dir)}
            await kill(backend.get_server_pid())
            backend.terminate()
            await ended(*children)
            # A server that recovers in place refuses this only after recovery has begun.
            with suppress(OSError, asyncpg.PostgresError):
                await ask(url, "SELECT 1")
    async with running(data_dir, notice=quiet) as url:
        for number in range(5):
            assert await ask(url, f"SELECT one FROM kept_{number}") == 1


async def test_a_killed_backend_costs_a_short_break(data_dir: Path) -> None:
    """A server that ended because of a killed backend is started again for those who use it."""
    async with running(data_dir, notice=quiet) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 1 AS one")
        backend = await asyncpg.connect(url)
        server = postmaster(data_dir)
        await kill(backend.get_server_pid())
        backend.terminate()
        await ended(server)
        async with running(data_dir, notice=quiet) as again:
            assert again == url
            assert await ask(url, "SELECT one FROM kept") == 1


async def test_a_failed_start_gives_the_reason(data_dir: Path) -> None:
    """The error carries the end of the server's log, and the server is gone."""
    async with running(data_dir, notice=quiet):
        pass
    with (data_dir / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match=r"did not start: .*shared_buffers"):
        async with running(data_dir, notice=quiet):
            pass
    assert processes(data_dir) == []


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("17\n", "by PostgreSQL 17 .*==17.* `userlog backup` .*`userlog import`.* pg_upgrade"),
        ("19\n", "by PostgreSQL 19 and can't be read by 18"),
        (None, "not a PostgreSQL cluster"),
    ],
)
async def test_data_of_another_make_is_refused(
    new_dir: Path, version: str | None, reason: str
) -> None:
    """Data that this PostgreSQL can't open is named in the error, and left alone."""
    (new_dir / "postgres").mkdir(parents=True)
    if version is not None:
        (new_dir / "postgres" / "PG_VERSION").write_text(version)
    with pytest.raises(EmbeddedPostgresError, match=reason):
        async with running(new_dir, notice=quiet):
            pass


async def test_a_useless_directory_is_refused_in_one_line() -> None:
    """What the system refuses becomes an error that names the setting to change."""
    with pytest.raises(EmbeddedPostgresError, match="USERLOG_DATA_DIR") as refusal:
        async with running(Path(__file__), notice=quiet):
            pass
    assert "\n" not in str(refusal.value)


LINKS = {
    "log": "postgres.log",
    "lock": "postgres.users.lock",
    "other-lock": "postgres.start.lock",
    "cluster": "postgres",
    "version": "postgres/PG_VERSION",
    "pid": "postgres/postmaster.pid",
    "socket": "postgres.socket",
}


@pytest.mark.parametrize("name", LINKS.values(), ids=LINKS)
async def test_no_link_is_followed(data_dir: Path, name: str) -> None:
    """A link in a data directory is named, and what it leads to is neither read nor made."""
    path, target = data_dir / name, data_dir.parent / "target"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    before = state(target)
    with pytest.raises(FileRefusedError, match=f"^{path} is a symbolic link"):
        async with running(data_dir, notice=quiet):
            pass
    assert state(target) == before


def state(path: Path) -> tuple[int, int, int, int] | None:
    """What a change of a file or folder changes; None of one that is not there."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what others may not")
async def test_root_leaves_the_folders_of_others_alone(new_dir: Path) -> None:
    """It makes nothing in a data directory of theirs, and opens no folder of theirs above one."""
    (new_dir / "of-others").mkdir(parents=True)
    for folder, error, how in (
        (new_dir, FileRefusedError, "runuser -u nobody -- "),
        (new_dir.parent, EmbeddedPostgresError, rf"chmod o\+x {new_dir.parent}"),
    ):
        os.chown(folder, NOBODY, NOBODY)
        before = state(folder)
        with pytest.raises(error, match=how):
            async with running(new_dir, notice=quiet):
                pass
        assert state(folder) == before
        os.chown(folder, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
async def test_root_lends_the_server_an_account(new_dir: Path) -> None:
    """Started by root, PostgreSQL runs as another account, let through what was closed to it."""
    lines: list[str] = []
    parent = mode(new_dir.parent)
    async with running(new_dir, notice=lines.append):
        assert (new_dir / "postgres").owner() != "root"
        assert postmaster(new_dir) in processes(new_dir)
    assert mode(new_dir.parent) == parent | stat.S_IXOTH
    assert [line for line in lines if str(new_dir.parent) in line] != []


@pytest.fixture
def account() -> Iterator[str]:
    """The name of a system account that does not exist yet; removed afterwards."""
    name = f"userlog-test-{os.getpid()}"
    yield name
    subprocess.run(["/usr/sbin/userdel", name], check=True, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create accounts")
def test_an_account_is_created_once(account: str) -> None:
    """Those who need the account at the same time all get the same one."""
    threads = 4
    barrier = Barrier(threads)

    def create(_number: int) -> int:
        barrier.wait()
        return system_account(quiet, account).pw_uid

    with ThreadPoolExecutor(threads) as pool:
        uids = set(pool.map(create, range(threads)))
    assert uids == {pwd.getpwnam(account).pw_uid}
