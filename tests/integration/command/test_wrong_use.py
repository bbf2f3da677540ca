"""Options, settings and files that make no sense: refused in words, or kept in quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.cli.failures import FAILED, WRONG_USE
from tests.support.commands import Terminal
from tests.support.processes import configured

if TYPE_CHECKING:
    from pathlib import Path

HUGE = "9" * 20
QUARANTINED = (
    '"quarantined":{"reason":"%s","detail":"d","first_seen":"2023-01-01T00:00:00Z",'
    '"last_seen":"2023-01-01T00:00:00Z","times_seen":1,"body":"%s"}'
)
ERASED = '"event":"%s","application_id":"a","user_id":"%s","occurred_at":"%s"'
MEMBERS = {
    "empty": "",
    "position-alone": '"position":"0:1"',
    "unknown-event": ERASED % ("user.unknown", "u", "2023-01-01T00:00:00Z"),
    "no-offset": ERASED % ("user.updated", "u", "2023-01-01T00:00:00"),
    "out-of-range": ERASED % ("user.updated", "u", "9999-12-31T23:59:59-10:00"),
    "nul": ERASED % ("user.updated", "u\\u0000", "2023-01-01T00:00:00Z"),
    "nul-in-reason": QUARANTINED % ("r\\u0000", "YQ=="),
    "no-base64": QUARANTINED % ("r", "a"),
}


@pytest.fixture
def terminal(database_url: str) -> Terminal:
    """A terminal where a userlog on a new database is configured."""
    return Terminal(configured(database_url))


async def test_numbers_that_are_too_large(terminal: Terminal) -> None:
    """Numbers that the database could not take, as options and as settings."""
    done = await terminal.run("quarantine", "list", "--limit", HUGE)
    assert (done.code, "--limit" in done.err, "Traceback" in done.err) == (WRONG_USE, True, False)
    for name in ("PROJECTOR_BATCH_ROWS_MAX", "PAGE_ROWS_MAX", "POOL_CONNECTIONS_MAX"):
        there = terminal.where(**{f"USERLOG_{name}": HUGE})
        done = await there.run("project", "--once")
        assert done.code == WRONG_USE
        assert f"USERLOG_{name}" in done.err


async def test_a_partition_that_the_log_has_not(terminal: Terminal) -> None:
    """An export after a position elsewhere is refused, and does not begin at the start."""
    done = await terminal.run("export", "--after", "9:1")
    assert (done.code, done.out) == (WRONG_USE, "")
    assert "the log has no partition 9" in done.err


async def test_lines_that_no_export_made(terminal: Terminal, tmp_path: Path) -> None:
    """A line that only looks like one of an export is kept in quarantine; others go in."""
    file = tmp_path / "some.jsonl"
    file.write_text("".join(f'{{"userlog":{{{member}}}}}\n' for member in MEMBERS.values()))
    done = await terminal.run("import", str(file))
    assert (done.code, done.err) == (0, "")
    assert done.out.split(", ")[-1] == f"quarantined: {len(MEMBERS)}\n"


async def test_the_login_of_an_endpoint_is_not_shown(terminal: Terminal) -> None:
    """An endpoint that does not answer is named, but not the password in its URL."""
    done = await terminal.run("send", "--url", "http://u:hunter2@127.0.0.1:1/x")
    assert done.code == FAILED
    assert "127.0.0.1:1" in done.out
    assert "hunter2" not in done.out + done.err
