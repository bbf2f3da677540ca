"""Other revisions of this repository, each in a folder of its own with a venv of its own.

They are below `.bench/`, by the names of their commits, and made once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".bench"
# What runs is enough; earlier revisions have one target for everything.
_TARGETS = (".venv/.runs", "setup")


class Checkout(NamedTuple):
    """A commit, what it is about, and the Python that has its userlog."""

    commit: str
    about: str
    python: Path


def checkout(revision: str) -> Checkout:
    """Return a revision's checkout, which is made unless it is there."""
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    folder = FOLDER / commit
    ready = folder / ".ready"
    if not ready.exists():
        print(f"making {folder} ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        unpack = ("tar", "--extract", "--directory", str(folder))
        subprocess.run(unpack, check=True, input=_git("archive", commit))  # noqa: S603 - ours
        _install(folder)
        ready.touch()
    return Checkout(commit, _about(commit), folder / ".venv/bin/python")


def working_tree() -> Checkout:
    """Return what is here as it is, with the Python that runs this."""
    commit = _git("rev-parse", "HEAD").decode().strip()
    changes = _git("status", "--porcelain")
    about = f"{_about(commit)}, and what is not committed" if changes else _about(commit)
    return Checkout(commit, about, Path(sys.executable))


def _about(commit: str) -> str:
    return _git("log", "-1", "--format=%h %s", commit).decode().strip()


def _install(folder: Path) -> None:
    """Make the venv as that revision makes it, with the Python that ours was made with."""
    python = Path(sys.executable).resolve()
    # What a `make` that runs this has set, is not meant for that one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    make = ("make", "--directory", str(folder), f"PYTHON={python}")
    for target in _TARGETS:
        known = subprocess.run(  # noqa: S603 - ours
            (*make, "--dry-run", target), check=False, capture_output=True, env=environment
        )
        if known.returncode == 0:
            # What it prints is no part of what a benchmark prints.
            done = subprocess.run(  # noqa: S603 - ours
                (*make, target), check=False, stdout=sys.stderr, env=environment
            )
            if done.returncode:
                raise SystemExit(f"{folder.name} can't be installed any more, as make says above")
            return
    raise SystemExit(f"{folder} has none of these targets: {', '.join(_TARGETS)}")


def _git(*arguments: str) -> bytes:
    command = ("git", "-C", str(ROOT), *arguments)
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - ours
    if done.returncode:
        raise SystemExit(done.stderr.decode().strip())
    return done.stdout
