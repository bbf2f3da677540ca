"""The embedded database's disk is full: nothing is lost, and it goes on by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

import asyncpg
import pytest

from tests.support.deliveries import APP, encoded, entry, envelope
from tests.support.limits import limit_files
from tests.support.processes import SECRET, TOKEN, Home
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.nursery import Nursery
    from tests.support.processes import Service

_DISK_MB = 200
# Less than this is left on a full disk, so a table can't grow.
_STEP_BYTES = 64 << 10
# Less than the write-ahead log's files have.
_FILE_BYTES_MAX = 1 << 20
_USERS = 20
_FIRST_USER = f"/v1/applications/{APP}/users/u-1-1"


class Disk(Protocol):
    """What can be filled, and emptied again."""

    def fill(self, service: Service) -> None: ...
    def clear(self, service: Service) -> None: ...


class SmallDisk:
    """A disk of memory with a file that takes its room."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, service: Service) -> None:
        size = 0
        with self._filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.posix_fallocate(file.fileno(), size, _STEP_BYTES)
                size += _STEP_BYTES

    def clear(self, service: Service) -> None:
        self._filler.unlink()


class FileLimit:
    """A limit of the size of files, where no disk can be mounted."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def fill(self, service: Service) -> None:
        self._set(service, _FILE_BYTES_MAX)

    def clear(self, service: Service) -> None:
        self._set(service, "unlimited")

    def _set(self, service: Service, most: int | str) -> None:
        """Set it for the service, whose children have it too, and for a PostgreSQL that runs."""
        limit_files(service.process.pid, most)
        with contextlib.suppress(OSError):
            postmaster = self._home.postmaster()
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
            for pid in (postmaster, *map(int, children.split())):
                limit_files(pid, most)


@pytest.fixture
def small_home(tmp_path: Path, initialized: Path, nursery: Nursery) -> Iterator[tuple[Home, Disk]]:
    """A userlog on a disk of its own that is small, or with a limit of file sizes."""
    folder = tmp_path / "data"
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={_DISK_MB}m", "none", folder)
    mounted = subprocess.run(["/bin/mount", *options], check=False, capture_output=True)
    subprocess.run(["/bin/cp", "-a", f"{initialized}/.", folder], check=True)
    temporary = folder / "tmp"
    temporary.mkdir()
    secrets = {"USERLOG_WEBHOOK_SECRETS": SECRET, "USERLOG_API_TOKEN": TOKEN}
    home = Home(folder, {**secrets, "TMPDIR": str(temporary)}, nursery=nursery)
    yield home, FileLimit(home) if mounted.returncode else SmallDisk(folder)
    if not mounted.returncode:
        subprocess.run(["/bin/umount", "--lazy", folder], check=True)


class Sender:
    """Sends deliveries, and keeps what was acknowledged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sent = 0
        self.acknowledged: list[str] = []

    async def send(self) -> int:
        """Send one of several users with long names; return the status, which is 200 or 503."""
        self._sent += 1
        payload = [entry(f"u-{self._sent}-{n}", first_name=token_hex(1000)) for n in range(_USERS)]
        answer = await self._service.deliver(encoded(envelope(payload)), SECRET)
        assert answer.status in {200, 503}, answer.body
        if answer.status == 200:
            assert answer.body["accepted"] == _USERS
            self.acknowledged += answer.body["positions"]
        return answer.status

    async def taken(self) -> bool:
        return await self.send() == 200

    async def refused(self) -> bool:
        return await self.send() == 503


async def _use_up_the_write_ahead_log(home: Home) -> None:
    """Let PostgreSQL begin files of its write-ahead log until there is no room, and it gives up."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with home.database() as database:
            while True:
                await database.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")
                await database.execute("SELECT pg_switch_wal()")


async def _found(service: Service, path: str) -> bool:
    return (await service.get(path)).status == 200


async def test_no_process_dies_of_it(small_home: tuple[Home, Disk]) -> None:
    """Also if temporary files are on that disk."""
    home, disk = small_home
    async with home.serving("--workers", "2") as service:
        sender, processes = Sender(service), service.children()
        assert await sender.taken()
        disk.fill(service)
        for _ in range(20):
            await sender.send()
        await until(sender.refused)
        assert service.children() == processes
        disk.clear(service)
        await until(sender.taken)


async def test_recovers_by_itself(small_home: tuple[Home, Disk]) -> None:
    """Each delivery gets 200 or 503, and what was acknowledged is there, without a restart."""
    home, disk = small_home
    log = home.folder.with_suffix(".log")
    async with home.serving() as service:
        sender = Sender(service)
        for crash in (False, True):
            assert await sender.taken()
            await until(lambda: _found(service, _FIRST_USER))
            disk.fill(service)
            if crash:
                await _use_up_the_write_ahead_log(home)
                await until(lambda: "PostgreSQL has died" in log.read_text(encoding="utf-8"))
            await until(sender.refused)
            assert (await service.get("/health/ready")).status == 503
            assert (await service.get("/health/live")).status == 200
            if not crash and isinstance(disk, SmallDisk):  # the database answers
                assert await _found(service, _FIRST_USER)
            for _ in range(20):
                await sender.send()
            disk.clear(service)
            await until(sender.taken)
            await until(lambda: _found(service, "/health/ready"))
        done = await home.run("verify")
        assert done.code == 0, done.err
        async with home.database() as database:
            rows = await database.fetch("SELECT position FROM userlog.events ORDER BY position")
        positions = [f"0:{row['position']}" for row in rows]
        assert positions == [f"0:{n}" for n in range(1, len(rows) + 1)]
        assert set(sender.acknowledged) <= set(positions)
        assert await service.stop() == 0
    said = log.read_text(encoding="utf-8")
    assert said.count("PostgreSQL has died; starting it again") == 1
    assert said.count("PostgreSQL does not start again") <= 1
    if isinstance(disk, SmallDisk):
        assert "starting it again (no space left on the database's disk)" in said
