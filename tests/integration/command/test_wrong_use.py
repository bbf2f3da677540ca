"""Options, settings and files that make no sense: refused in words, or kept in quarantine."""

from __future__ import annotations

import re
import stat
import uuid
from typing import TYPE_CHECKING

import pytest

from api.cli.failures import FAILED, WRONG_USE
from tests.support.commands import Terminal
from tests.support.database import alter, restore
from tests.support.deliveries import delivery
from tests.support.events import only
from tests.support.processes import configured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Stack

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


async def test_version(terminal: Terminal) -> None:
    """What is asked for when something is reported."""
    done = await terminal.run("--version")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"userlog \d\S*, schema \d+, fold \d+\n", done.out)


@pytest.mark.parametrize("name", ["", "  ", "n" * 201])
async def test_names_of_tokens(terminal: Terminal, name: str) -> None:
    """A token has a name that can be read in a list."""
    done = await terminal.run("token", "create", "--name", name)
    assert done.code == WRONG_USE
    assert "1 to 200 characters" in done.err
    assert (await terminal.run("token", "list", "--json")).out == "[]\n"


async def test_replay_of_what_is_not_there(terminal: Terminal) -> None:
    """It is named, and not counted as still in quarantine."""
    key = str(uuid.UUID(int=1))
    done = await terminal.run("quarantine", "replay", key)
    assert (done.code, done.out) == (FAILED, "")
    assert f"no delivery {key} in quarantine" in done.err


def files_in(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
async def test_an_export_is_whole_or_not_there(
    terminal: Terminal, stack: Stack, tmp_path: Path, suffix: str
) -> None:
    """One that fails leaves the file of before as it was, and nothing beside it.

    What it makes has personal data in the clear, so its owner alone can read it.
    """
    path = tmp_path / f"log.jsonl{suffix}"
    path.write_bytes(b"before")
    await stack.log.append([only(delivery("u1")), only(delivery("u2"))])
    await alter(stack, 2)
    failed = await terminal.run("export", "--out", str(path))
    assert failed.code == FAILED
    assert (path.read_bytes(), files_in(tmp_path)) == (b"before", [path])
    await restore(stack, 2)
    assert (await terminal.run("export", "--out", str(path))).code == 0
    assert files_in(tmp_path) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = await terminal.run("import", str(path))
    assert done.out.startswith("appended: 0, duplicates: 2")
