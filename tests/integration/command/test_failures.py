"""What can be expected to go wrong with a command: one line that helps, and its exit code."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from api.cli.failures import FAILED, READER_GONE, WRONG_USE, Failure, failure_of
from api.config.secret_files import obtain
from api.config.settings import Settings
from tests.support.commands import Terminal, closed_pipe, said
from tests.support.database import connected
from tests.support.deliveries import APP, delivery
from tests.support.processes import configured
from tests.support.server import with_database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.processes import Finished

FULL = Path("/dev/full")
PASSWORD = "hunter2"
PRINTING = [
    ("--help",),
    ("token", "--help"),
    ("settings",),
    ("settings", "--json"),
    ("doctor",),
    ("status",),
    ("status", "--json"),
    ("user", APP, "u"),
    ("user", APP, "u", "--json"),
    ("history", APP, "u"),
    ("history", APP, "u", "--json"),
    ("stats", APP, "--from", "2023-06-13", "--to", "2023-06-13"),
    ("export",),
    ("verify",),
    ("rebuild", "--verify-only", "--workers", "1"),
    ("parked",),
    ("quarantine", "list"),
    ("token", "list"),
    ("token", "list", "--json"),
]


@pytest.fixture
def terminal(database_url: str) -> Terminal:
    """A terminal where a userlog on a new database is configured."""
    return Terminal(configured(database_url))


@pytest.fixture
async def filled(terminal: Terminal, tmp_path: Path) -> Terminal:
    """The same with an event of a user."""
    file = tmp_path / "one.jsonl"
    file.write_bytes(delivery("u", "create"))
    assert (await terminal.run("import", str(file))).code == 0
    assert (await terminal.run("project", "--once")).code == 0
    return terminal


@asynccontextmanager
async def login(url: str, grants: str = "") -> AsyncGenerator[str]:
    """Make a user of the server, and yield the URL with which they log in."""
    name = f"userlog_test_{os.getpid()}_login"
    async with connected(url) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN {grants}")
        try:
            yield url.replace("://postgres@", f"://{name}:{PASSWORD}@")
        finally:
            await admin.execute(f"DROP ROLE {name}")


def assert_one_line(done: Finished, code: int, *words: str) -> None:
    """Check that a command printed one line with these words, and no password."""
    assert done.code == code, done.err
    assert done.out == ""
    lines = said(done)
    assert len(lines) == 1
    assert lines[0].startswith("userlog: ")
    assert PASSWORD not in done.err
    for word in words:
        assert word in done.err


async def test_unknown_database(terminal: Terminal, database_url: str) -> None:
    """A database that is not on the server is a wrong setting."""
    elsewhere = terminal.where(USERLOG_DATABASE_URL=with_database(database_url, "not_there"))
    for command in ("status", "init"):
        done = await elsewhere.run(command)
        assert_one_line(done, WRONG_USE, "no database", "USERLOG_DATABASE_URL")


async def test_unknown_user(terminal: Terminal, database_url: str) -> None:
    """A login that the server refuses is a wrong setting, and no password is shown."""
    url = database_url.replace("://postgres@", f"://not_there:{PASSWORD}@")
    assert url != database_url
    done = await terminal.where(USERLOG_DATABASE_URL=url).run("status")
    assert_one_line(done, WRONG_USE, "refuses the login", "password")


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (f"postgresql://u:{PASSWORD}@not-there.invalid/db", FAILED, "its host is not known"),
        (f"postgresql://u:{PASSWORD}@127.0.0.1:1/db", FAILED, "nothing listens"),
        (f"postgresql://u:{PASSWORD}@/db?host=/not-there", FAILED, "nothing listens"),
        (f"u:{PASSWORD}@host/db", WRONG_USE, "example: postgresql://"),
        (f"postgresql://u:{PASSWORD}@host:{PASSWORD}/db", WRONG_USE, "example: postgresql://"),
        (f"postgresql://u:{PASSWORD}@[::1/db", WRONG_USE, "example: postgresql://"),
        (f"postgresql://u:{PASSWORD}@host/db?sslmode=x", WRONG_USE, "example: postgresql://"),
    ],
    ids=["host", "port", "socket", "scheme", "port-is-text", "brackets", "sslmode"],
)
async def test_wrong_url(url: str, code: int, words: str) -> None:
    """A server that is not there, and a URL that is none."""
    done = await Terminal(configured(url)).run("status")
    assert_one_line(done, code, words, "USERLOG_DATABASE_URL")


async def test_unknown_parameter(terminal: Terminal, database_url: str) -> None:
    """A parameter of the URL that the server does not know."""
    done = await terminal.where(USERLOG_DATABASE_URL=f"{database_url}&colour=red").run("status")
    assert_one_line(done, WRONG_USE, "USERLOG_DATABASE_URL")


async def test_no_rights(terminal: Terminal, database_url: str) -> None:
    """A login that was granted nothing."""
    async with login(database_url) as url:
        there = terminal.where(USERLOG_DATABASE_URL=url)
        for arguments in (
            *(("init",), ("status",), ("user", APP, "u"), ("export",), ("verify",)),
            *(("token", "list"), ("rebuild", "--workers", "1"), ("rotate-master-key",)),
        ):
            done = await there.run(*arguments)
            assert_one_line(done, FAILED, "may not use userlog there", "GRANT userlog_app TO")


async def test_rights_of_the_service_alone(filled: Terminal, database_url: str) -> None:
    """A login with the rights of the service looks up users, and can't rebuild."""
    async with login(database_url, "IN ROLE userlog_app") as url:
        there = filled.where(USERLOG_DATABASE_URL=url)
        assert (await there.run("user", APP, "u")).code == 0
        done = await there.run("rebuild", "--workers", "1")
    assert_one_line(done, FAILED, "the owner of the schema")


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidPasswordError(f"password {PASSWORD} is wrong"),
        asyncpg.TooManyConnectionsError(f"too many for {PASSWORD}"),
        ExceptionGroup("several", [asyncpg.InvalidPasswordError(PASSWORD)]),
        ConnectionResetError(104, PASSWORD),
    ],
    ids=["password", "connections", "group", "reset"],
)
def test_what_the_driver_says_is_not_quoted(error: Exception) -> None:
    """Errors that a test can't cause at every server."""
    found = failure_of(error)
    assert found is not None
    assert PASSWORD not in found.line


def test_a_defect_is_no_failure() -> None:
    """What is not expected keeps its traceback."""
    assert failure_of(KeyError("x")) is None
    assert failure_of(asyncpg.DivisionByZeroError("x")) is None
    assert failure_of(BrokenPipeError()) == Failure(READER_GONE)


@pytest.mark.parametrize("name", ["x", "x.gz", "x.zst"])
async def test_out(filled: Terminal, tmp_path: Path, name: str) -> None:
    """A file that can't be written, because of its folder, of what it is, or of the disk."""
    folder, full = tmp_path / name, tmp_path / f"full-{name}"
    folder.mkdir()
    full.symlink_to(FULL)
    missing = tmp_path / "not-there" / name
    for path, problem in (
        (missing, "No such file or directory"),
        (folder, "Is a directory"),
        (full, "No space left on device"),
    ):
        done = await filled.run("export", "--out", str(path))
        assert_one_line(done, FAILED, str(path), problem)


async def test_files_that_are_read(terminal: Terminal, tmp_path: Path) -> None:
    """A file that is missing, a folder, or not packed as its name says."""
    packed = [tmp_path / "x.gz", tmp_path / "x.zst"]
    for path in packed:
        path.write_bytes(b"not packed")
    for command in ("import", "send"):
        for path in (tmp_path, tmp_path / "not-there"):
            assert_one_line(await terminal.run(command, str(path)), FAILED, str(path))
    for path in packed:
        assert_one_line(await terminal.run("import", str(path)), FAILED, str(path))


async def test_secrets_that_cannot_be_read(terminal: Terminal, tmp_path: Path) -> None:
    """A file of a key, missing or not text."""
    missing, binary = tmp_path / "not-there", tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    del terminal.environ["USERLOG_MASTER_KEY"]
    for path in (missing, binary, tmp_path):
        done = await terminal.where(USERLOG_MASTER_KEY_FILE=str(path)).run("status")
        assert_one_line(done, WRONG_USE, "USERLOG_MASTER_KEY_FILE")


async def test_a_former_key_that_cannot_be_read(tmp_path: Path) -> None:
    """The key that is kept beside a generated one while it is rotated."""
    obtain(Settings(data_dir=str(tmp_path)))
    (tmp_path / "postgres").mkdir()
    previous = tmp_path / "master-key.previous"
    previous.write_bytes(b"\xff\xfe")
    previous.chmod(0o600)
    done = await Terminal({"USERLOG_DATA_DIR": str(tmp_path)}).run("status")
    assert_one_line(done, WRONG_USE, "master-key.previous", "UnicodeDecodeError")


async def test_arguments_that_are_not_utf8(terminal: Terminal) -> None:
    """Bytes that are no characters, wherever an argument may stand."""
    wrong = os.fsdecode(b"a\xff")
    for arguments in (
        ("user", APP, wrong),
        ("stats", wrong),
        ("token", "create", "--name", wrong),
        ("verify", f"--against={wrong}"),
        (wrong,),
    ):
        done = await terminal.run(*arguments)
        number = next(i for i, text in enumerate(arguments, 1) if wrong in text)
        assert_one_line(done, WRONG_USE, f"argument {number} is not UTF-8")


async def test_output_that_cannot_be_written(filled: Terminal) -> None:
    """A full disk is an error, a reader who has left is none: 141, as after SIGPIPE, and silent."""
    for arguments in PRINTING:
        full = await filled._replace(out=FULL).run(*arguments)
        assert_one_line(full, FAILED, "No space left on device")
        with closed_pipe() as pipe:
            done = await filled._replace(out=pipe).run(*arguments)
        assert (done.code, done.out, said(done)) == (READER_GONE, "", []), arguments


async def test_the_failure_counts_for_more_than_the_reader(filled: Terminal) -> None:
    """A command that found something wrong says so, even if its output is not read."""
    with closed_pipe() as pipe:
        terminal = filled._replace(out=pipe)
        done = await terminal.run("verify", "--against", "0:1:00")
    assert_one_line(done, FAILED, "0:1")
