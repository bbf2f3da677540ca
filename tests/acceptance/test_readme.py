"""The first tour of the README prints what the README shows."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.processes import Home

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def tour() -> list[tuple[str, list[str]]]:
    """Return the commands of the tour, and the lines that each prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## A first tour\n.*?```\n(.*?)```", text, re.DOTALL)
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def lines(text: str) -> list[str]:
    """Return lines without the blanks that fill a table, and without those around it."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


async def test_the_tour(own_home: Home) -> None:
    """Each command succeeds and prints exactly what stands below it."""
    commands = tour()
    assert len(commands) >= 5
    async with own_home.serving() as service:
        port = service.base.rpartition(":")[2]
        environ = {**os.environ, "USERLOG_DATA_DIR": str(own_home.folder), "USERLOG_PORT": port}
        for command, expected in commands:
            process = await asyncio.create_subprocess_shell(
                command.replace(".venv/bin", str(BIN)),
                env={**environ, "COLUMNS": "80"},
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode == 0, err.decode()
            assert lines(out.decode()) == lines("\n".join(expected)), command
