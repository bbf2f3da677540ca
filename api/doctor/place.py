"""What can be seen without the database: versions, data directory, disk, secrets."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from api.config.secret_files import FILES
from api.config.sources import MAY_BE_EMPTY, PREFIX, SECRETS, readable_by_others
from api.doctor.finding import Finding, amount, broken, ok, span, warning
from eventstore.postgres.schema import SCHEMA_VERSION
from projections.fold.state import FOLD_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.config.settings import Settings

_FREE_LEAST, _FREE_LITTLE = 0.03, 0.1
_FREE_BYTES_LEAST = 64_000_000
_OLD_S = 365 * 86_400


def versions() -> Finding:
    """What runs here."""
    return ok(
        "versions",
        f"userlog {version('userlog')}, schema {SCHEMA_VERSION}, fold {FOLD_VERSION}, Python"
        f" {platform.python_version()}",
    )


def disk(settings: Settings) -> Finding:
    """How much room the disk of the embedded database has."""
    found = shutil.disk_usage(settings.data_dir)
    share = found.free / found.total
    said = f"{amount(found.free)} of {amount(found.total)} are free ({share:.0%})"
    if share < _FREE_LEAST or found.free < _FREE_BYTES_LEAST:
        return broken(
            "disk",
            said,
            "make room on it now: a database without room takes nothing; it goes on by itself then",
        )
    if share < _FREE_LITTLE:
        todo = "make room, or move the data directory; `userlog rebuild --drop` frees old tables"
        return warning("disk", said, todo)
    return ok("disk", said)


def secrets(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """How old the files of secrets are, and who can read them."""
    files = {name: path for name in SECRETS if (path := _file_of(name, settings, environ))}
    now = time.time()
    said: list[str] = []
    old: list[str] = []
    for name, path in files.items():
        status = path.stat()
        words = name.replace("_", " ")
        said.append(f"{words} {span(now - status.st_mtime)} old")
        if now - status.st_mtime > _OLD_S:
            old.append(words)
    found: list[Finding] = []
    if open_to_others := readable_by_others(environ):
        listed = ", ".join(f"the file of {name}" for name in open_to_others)
        found.append(warning("secrets", f"others can read {listed}", "chmod 600, or 640"))
    if old:
        todo = (
            "make new ones: docs/deploying.md, Another webhook secret; docs/operations.md, Another"
            " master key"
        )
        found.append(warning("secrets", ", ".join(said), todo))
    return found or [ok("secrets", ", ".join(said) or "given by the environment")]


def _file_of(name: str, settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the file that a secret comes from, if it does."""
    variable = PREFIX + name.upper()
    if environ.get(variable):
        return None
    given = environ.get(f"{variable}_FILE")
    if given and name == MAY_BE_EMPTY and settings.previous_master_key is None:
        return None  # between rotations there is no secret in it
    generated = name in FILES and settings.database_url is None
    made = Path(settings.data_dir) / FILES[name] if generated else None
    path = Path(given) if given else made
    return path if path and os.access(path, os.R_OK) else None
