"""What commands print on narrow terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.commands import Terminal
from tests.support.deliveries import APP, SAMPLE_USER, delivery
from tests.support.processes import configured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Stack


@pytest.mark.parametrize("columns", [40, 80])
async def test_headings_and_ids_are_whole(stack: Stack, tmp_path: Path, columns: int) -> None:
    """At 80 columns and at 40, each line fits, and no id and no heading is cut."""
    terminal = Terminal(configured(stack.url), columns)
    file = tmp_path / "some.jsonl"
    file.write_bytes(delivery(SAMPLE_USER, "create") + b"\nnot JSON\n")
    assert (await terminal.run("import", str(file))).code == 0
    assert (await terminal.run("project", "--once")).code == 0
    assert (await terminal.run("token", "create", "--name", "crm", "--application", APP)).code == 0
    (key,) = await stack.quarantine.keys(None)
    day = ("--from", "2023-06-13", "--to", "2023-06-13")
    for arguments, words in (
        (("status",), ("partition", "generation", "position", "0 events, 0.0 s")),
        (("stats", APP, *day), ("2023-06-13", "created", "deleted", "blocked")),
        (("token", "list"), (APP, "applications", "crm", "state")),
        (("quarantine", "list"), (str(key), "not-json", "last seen")),
        (("settings",), ("USERLOG_PROJECTOR_BATCH_ROWS_MAX", "meaning")),
        (("user", APP, SAMPLE_USER), ("lifecycle", "active")),
    ):
        done = await terminal.run(*arguments)
        assert done.code == 0
        assert "…" not in done.out.replace("q83vEjRWeJ…=", "")
        said = " ".join(done.out.split())
        for word in words:
            assert word in said, arguments
        if arguments[0] != "user":  # its title is not wrapped
            assert max(map(len, done.out.splitlines())) <= columns, arguments
