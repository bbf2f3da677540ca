"""The Makefile, as a newcomer meets it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("moved", [False, True])
def test_a_checkout_that_was_moved(tmp_path: Path, moved: bool) -> None:
    """It gets a new .venv: the programs in the old one name the folder that is gone."""
    folder = tmp_path / "with space"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-build.lock"):
        shutil.copy(CHECKOUT / name, folder)
    place = "/elsewhere" if moved else folder / ".venv"
    (folder / ".venv" / ".locked").write_text(f"{place}\n")
    (folder / ".venv" / ".runs").touch()
    make = ("make", "--dry-run", "--directory", str(folder), "run")
    done = subprocess.run(make, check=True, capture_output=True, text=True)
    assert ("-m venv" in done.stdout) is moved, done.stdout
