"""Commands that ask make nothing: neither a database, nor a schema, nor secrets."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from api.config.secret_files import FILES
from tests.support.commands import Terminal, all_commands, said
from tests.support.database import connected
from tests.support.deliveries import APP, delivery
from tests.support.processes import Home, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.server import Server

# The kernel's overflow uid, which has an account everywhere.
NOBODY = 65534
UUID = str(uuid.UUID(int=1))
# Each command, and what it needs besides.
ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("serve",): ("--port", "0"),
    ("project",): ("--once",),
    ("upgrade",): (),
    ("send",): (),
    ("status",): (),
    ("user",): (APP, "u"),
    ("history",): (APP, "u"),
    ("stats",): (APP, "--from", "2023-06-13", "--to", "2023-06-13"),
    ("erase",): (APP, "u", "--yes"),
    ("erasures",): (),
    ("subject",): (APP, "u"),
    ("users", "export"): (),
    ("verify",): (),
    ("signed-heads",): (),
    ("rotate-master-key",): (),
    ("backup",): ("{folder}/backup",),
    ("export",): (),
    ("import",): ("{file}",),
    ("rebuild",): (),
    ("parked",): (),
    ("quarantine", "list"): (),
    ("quarantine", "show"): (UUID,),
    ("quarantine", "replay"): (UUID,),
    ("quarantine", "purge"): (UUID, "--yes"),
    ("token", "create"): ("--name", "x"),
    ("token", "list"): (),
    ("token", "revoke"): ("x",),
}
# They make a database, or need none.
CREATING = {("init",), ("serve",), ("import",)}
WITHOUT = {("init",), ("settings",), ("doctor",), ("restore",)}


def names_in(folder: Path) -> list[str]:
    """What is in a folder."""
    return [one.name for one in folder.iterdir()]


def test_all_commands() -> None:
    """None is forgotten here."""
    assert all_commands() == ARGUMENTS.keys() | WITHOUT


@pytest.mark.parametrize("command", [one for one in ARGUMENTS if one not in CREATING], ids=" ".join)
async def test_in_an_empty_folder(tmp_path: Path, command: tuple[str, ...]) -> None:
    """One line names the folder that was looked at, and the folder stays empty."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for data_dir in (folder, folder / "none"):
        terminal = Terminal({"USERLOG_DATA_DIR": str(data_dir)})
        arguments = [one.format(folder=folder, file="") for one in ARGUMENTS[command]]
        done = await terminal.run(*command, *arguments)
        assert (done.code, done.out, len(said(done))) == (2, "", 1), done.err
        assert str(data_dir) in done.err
        assert "userlog init" in done.err
        assert names_in(folder) == []


@pytest.fixture(scope="module")
async def shared_url(server: Server) -> AsyncIterator[str]:
    """The URL of a database with nothing in it, in which each test looks that this is still so."""
    async with server.database() as url:
        yield url


@pytest.mark.parametrize("command", ARGUMENTS, ids=" ".join)
async def test_on_an_empty_database(
    shared_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """One line names the database and the command to type, and nothing is in it afterwards."""
    file = tmp_path / "one.jsonl"
    file.write_bytes(delivery("u", "create"))
    terminal = Terminal(configured(shared_url) | {"USERLOG_DATA_DIR": str(tmp_path / "data")})
    arguments = [one.format(file=file, folder=tmp_path) for one in ARGUMENTS[command]]
    if command == ("serve",):  # as it is started, since it listens to signals
        home = Home(tmp_path / "data", configured(shared_url))
        done = await home.run(*command, *arguments)
    else:
        done = await terminal.run(*command, *arguments)
    if command == ("send",):  # it speaks to a service, and to no database
        assert done.code == 1
    elif command == ("backup",):  # a server has its own
        assert (done.code, done.out, len(said(done))) == (2, "", 1), done.err
        assert "pg_basebackup" in done.err
    else:
        assert (done.code, done.out, len(said(done))) == (2, "", 1), done.err
        assert shared_url.partition("?")[0].rpartition("/")[2] in done.err
        assert "userlog init" in done.err
    async with connected(shared_url) as connection:
        assert not await connection.fetchval("SELECT to_regnamespace('userlog')::text")
    assert names_in(tmp_path) == [file.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what others may not")
@pytest.mark.parametrize("command", [("init",), *ARGUMENTS], ids=" ".join)
async def test_as_root_in_a_folder_of_somebody_else(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """One line says whose it is and how to go on; nothing there is changed, nor what links lead to.

    So root can't be led to files of its own.
    """
    folder, target, file = tmp_path / "data", tmp_path / "target", tmp_path / "one.jsonl"
    (folder / "postgres").mkdir(parents=True)
    for name in ("postgres.log", "postgres.users.lock", "address", *FILES.values()):
        (folder / name).symlink_to(target)
    file.write_bytes(delivery("u", "create"))
    os.chown(folder, NOBODY, NOBODY)
    before = folder.stat()
    arguments = [one.format(file=file, folder=tmp_path) for one in ARGUMENTS.get(command, ())]
    done = await Terminal({"USERLOG_DATA_DIR": str(folder)}).run(*command, *arguments)
    assert (done.code, done.out, len(said(done))) == (2, "", 1), done.err
    assert f"{folder} belongs to nobody" in done.err
    assert "runuser -u nobody -- " in done.err
    after = folder.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert sorted(names_in(tmp_path)) == ["data", "one.jsonl"]


async def test_import_makes_a_new_home_only(tmp_path: Path) -> None:
    """Into an empty data directory it imports; one that holds something else it leaves alone."""
    file = tmp_path / "one.jsonl"
    file.write_bytes(delivery("u", "create"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    refused = await Terminal({"USERLOG_DATA_DIR": str(other)}).run("import", str(file))
    assert (refused.code, len(said(refused))) == (2, 1)
    assert names_in(other) == ["thesis.tex"]
    for _ in range(2):
        done = await Terminal({"USERLOG_DATA_DIR": str(tmp_path / "new")}).run("import", str(file))
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    "command",
    [
        *(("import", "none.jsonl"), ("rotate-master-key", "--prepare")),
        *(("restore", "none"), ("restore", "none", "--check")),
    ],
)
async def test_before_something_is_made(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file or a backup, and a key to a log, that are not there leave the folder empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    done = await Terminal({"USERLOG_DATA_DIR": str(folder)}).run(*command)
    assert done.code in (1, 2)
    assert len(done.err.splitlines()) == 1
    assert names_in(folder) == []


@pytest.mark.parametrize("command", [("verify",), ("doctor",), ("send",)], ids=" ".join)
async def test_a_secret_that_is_not_put_back(tmp_path: Path, command: tuple[str, ...]) -> None:
    """After a restore only `serve` makes what is missing, and says so; `send` names it."""
    folder = tmp_path / "data"
    terminal = Terminal({"USERLOG_DATA_DIR": str(folder)})
    assert (await terminal.run("init")).code == 0
    missing = {FILES["webhook_secrets"], FILES["api_token"]}
    for name in missing:
        (folder / name).unlink()
    done = await terminal.run(*command)
    assert not missing & set(names_in(folder))
    if command == ("send",):
        assert (done.code, len(said(done))) == (2, 1)
        assert str(folder / FILES["webhook_secrets"]) in done.err
    else:
        assert done.code == 0, done.err
