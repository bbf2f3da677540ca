"""Files of the data directory, where no symbolic link is followed.

Who can put a link there could lead a process with more rights to any file of the machine.
"""

from __future__ import annotations

import errno
import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class FileRefusedError(Exception):
    """A file or folder is not used as it is; the message is one line with what to do about it."""


def refuse_foreign(folder: Path) -> None:
    """FileRefusedError if root is about to use a data directory that is somebody else's."""
    if os.geteuid() != 0 or not folder.exists():
        return
    status = folder.stat()
    if status.st_uid == 0:
        return
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = f"the user {status.st_uid}"
        how = f"setpriv --reuid={status.st_uid} --regid={status.st_gid} --clear-groups userlog …"
    else:
        how = f"runuser -u {name} -- userlog …"
    raise FileRefusedError(
        f"{folder} belongs to {name}, and root does not use it; run as {name}: {how}"
    )


def refuse_link(path: Path) -> None:
    """FileRefusedError if a path is a symbolic link."""
    if path.is_symlink():
        raise _is_link(path)


def no_link(path: str, flags: int) -> int:
    """Open a file as `opener` of open(); one that is made is its owner's alone.

    FileRefusedError if it is a symbolic link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(path) from None
        raise


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power cut, as fsync lets what is in a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_link(path: Path | str) -> FileRefusedError:
    return FileRefusedError(
        f"{path} is a symbolic link, and userlog follows none there; put a file in its place, or"
        " remove it"
    )
