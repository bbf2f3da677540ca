"""The command that says what is wrong."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from api.cli import output
from api.cli.files import naming
from api.cli.shared import WATCH, FailedError, Json, new_group, run
from api.doctor.examine import Examined, examine
from api.doctor.finding import State
from api.observe import logs
from api.observe.visible import json_text

app = new_group()


@app.command("doctor", rich_help_panel=WATCH)
def doctor_command(
    bundle: Annotated[
        Path | None, typer.Option(help="Write what support needs into a new file.")
    ] = None,
    json: Json = False,
) -> None:
    """Say in one page what is wrong here, and what to do.

    Exit code 1 if something is broken. It changes nothing. The bundle holds the same as JSON, the
    settings without secrets, and numbers of the database; nothing in it is about a person.
    """
    logs.configure("error", "auto")
    found = run(examine())
    if json:
        output.as_json(found.findings)
    else:
        output.findings(found.findings)
    if bundle is not None:
        with naming(bundle):
            _write(bundle, found)
        if not json:
            output.plain(f"written to {bundle}")
    if count := sum(one.state is State.BROKEN for one in found.findings):
        raise FailedError(f"{count} of {len(found.findings)} things are broken")


def _write(path: Path, found: Examined) -> None:
    """Write a bundle, whole or not at all; a file that is there stays as it is."""
    content = {"made_at": datetime.now(UTC), "findings": found.findings, **found.details}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{json_text(content)}\n")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
