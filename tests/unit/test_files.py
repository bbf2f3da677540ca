"""Files of the data directory: links are refused, and so is a folder that is somebody else's."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from eventstore.postgres.files import FileRefusedError, no_link, refuse_foreign, refuse_link

if TYPE_CHECKING:
    from pathlib import Path

# The kernel's overflow uid, and one that has no account.
NOBODY, UNKNOWN = 65534, 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")


@pytest.mark.parametrize("mode", ["r", "ab", "w"])
@pytest.mark.parametrize("there", [True, False])
def test_links(tmp_path: Path, mode: str, there: bool) -> None:
    """A link is named, and what it leads to is neither read, changed nor made."""
    target, link = tmp_path / "target", tmp_path / "link"
    if there:
        target.write_text("kept")
    link.symlink_to(target)
    with pytest.raises(FileRefusedError, match=f"^{link} is a symbolic link"):
        open(link, mode, opener=no_link).close()
    with pytest.raises(FileRefusedError, match=f"^{link} is a symbolic link"):
        refuse_link(link)
    assert target.exists() is there
    assert not there or target.read_text() == "kept"


def test_no_links(tmp_path: Path) -> None:
    """What is made is its owner's alone; what is missing is missing."""
    with open(tmp_path / "made", "ab", opener=no_link) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    refuse_link(tmp_path / "made")
    with pytest.raises(FileNotFoundError):
        open(tmp_path / "missing", opener=no_link).close()


@as_root
def test_folders_of_others(tmp_path: Path) -> None:
    """Root uses its own folders, and one that is not there yet; the line says how to use others."""
    refuse_foreign(tmp_path)
    refuse_foreign(tmp_path / "missing")
    for uid, how in ((NOBODY, "runuser -u nobody -- "), (UNKNOWN, f"setpriv --reuid={UNKNOWN} ")):
        os.chown(tmp_path, uid, uid)
        with pytest.raises(FileRefusedError, match=f"^{tmp_path} belongs to .*: {how}"):
            refuse_foreign(tmp_path)
    os.chown(tmp_path, 0, 0)
