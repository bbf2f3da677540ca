"""Limits of the sizes of files, for processes that run: what they write beyond fails (EFBIG)."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path


def limit_files(pid: int, most: int | str) -> None:
    """Let a process write to no file beyond so many bytes, or `unlimited`; one that ended is fine.

    As its own account, which may do it everywhere; root may not in every container.
    """
    with contextlib.suppress(FileNotFoundError):
        owner = Path(f"/proc/{pid}").stat()
        subprocess.run(
            ["/usr/bin/prlimit", "--pid", str(pid), f"--fsize={most}:"],
            user=owner.st_uid,
            group=owner.st_gid,
            check=False,
            capture_output=True,
        )
