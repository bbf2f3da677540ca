"""What customers type reaches no terminal raw, whatever command shows it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import sys
import tty
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from api.web.tokens import Scope, Tokens
from eventstore.sealing.keys import MasterKey
from projections.project.projector import catch_up
from tests.conftest import MASTER_KEY
from tests.support.commands import Terminal, all_commands
from tests.support.deliveries import encoded, entry, envelope
from tests.support.events import event
from tests.support.marks import MARKS
from tests.support.processes import configured
from tests.support.rows import rewrite_state
from tests.support.server import with_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Stack
    from tests.support.processes import Finished

FORGED = "\nFORGED [red]x :smile:"
TEXT = MARKS + FORGED
# An id has at most 200 characters and no NUL.
ID = MARKS[1:150] + FORGED
# What an id, a text and their likes are shown as, at least.
ESCAPES = (r"\x1b", r"\x9b", r"\x7f", r"\u202e", r"\u200b", r"\u2028", "[red]x:smile:")
APPLICATION, USER, PARKED = f"app{ID}", f"u{ID}", f"p{ID}"
DAY = ("--from", "2023-06-13", "--to", "2023-06-13")
WIDE, NARROW = 30_000, 40
# The commands that the tests below run because a customer's value could be in their output.
WITH_VALUES = {
    *("user", "history", "stats", "erase", "parked", "rebuild", "export", "import", "verify"),
    *("quarantine list", "quarantine show", "quarantine replay", "quarantine purge"),
    *("token list", "token create", "token revoke", "settings", "status", "send"),
    *("erasures", "subject", "users export"),
}
WITHOUT_VALUES = {
    *("init", "upgrade", "serve", "project", "rotate-master-key", "doctor", "backup", "restore"),
    "signed-heads",
}


def raw_in(text: str) -> list[str]:
    """Return what is raw in a text, but for line breaks."""
    return sorted({ascii(char) for char in text if char in MARKS and char != "\n"})


def assert_shown(done: Finished, what: tuple[str, ...], *, value: bool = True) -> None:
    """Check that nothing is raw, that no line is forged, and that a value is shown."""
    for text in (done.out, done.err):
        assert raw_in(text) == [], what
        forged = [line for line in text.split("\n") if line.strip().startswith("FORGED")]
        assert forged == [], what
    if value:
        packed = "".join((done.out + done.err).split())
        assert [escape for escape in ESCAPES if escape not in packed] == [], what


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value, its names too."""
    match value:
        case str():
            yield value
        case dict():
            for name, one in value.items():
                yield name
                yield from texts_in(one)
        case list():
            for one in value:
                yield from texts_in(one)
        case _:
            pass


@pytest.fixture
async def terminal(stack: Stack) -> Terminal:
    """A terminal where every value that comes from outside is as bad as can be."""
    contact: dict[str, Any] = {"email": TEXT, "primary": True, TEXT: TEXT}
    phone = {"phone": ID, "country_code": 91, "active": False}
    lives: list[dict[str, Any]] = [
        {"first_name": TEXT, "gender": "", TEXT: TEXT, "emails": [contact]},
        {"first_name": TEXT[::-1], "phone_numbers": [phone], "emails": [TEXT], TEXT: [TEXT]},
        {"first_name": None, "emails": [{**contact, "verified": True}], "metadata": {"a": TEXT}},
    ]
    for at_ms, fields in enumerate(lives):
        kind = "update" if at_ms else "create"
        body = encoded(envelope([entry(USER, **fields)], kind, at_ms, APPLICATION))
        assert not (await stack.ingest.deliver(body)).quarantined
    for user in (PARKED, "v"):
        body = encoded(envelope([entry(user)], "create", 0, APPLICATION))
        assert not (await stack.ingest.deliver(body)).quarantined
    headers = {"user-agent": TEXT[1:]}
    await stack.quarantine.put(b"\x9b\xff" + TEXT.encode(), f"r{ID}", f"d{TEXT[1:]}", headers)
    tokens = Tokens(stack.admin, MasterKey(MASTER_KEY))
    await tokens.create(f"name{TEXT[1:]}", [Scope.READ], [APPLICATION])
    assert await catch_up(stack.log, 10) == 5
    settings = configured(stack.url) | {"USERLOG_HOST": f"h{TEXT[1:]}"}
    return Terminal(settings, WIDE)


async def _park(stack: Stack) -> None:
    for user in (PARKED, USER):
        unreadable = event(user, "poison", payload=b"no", application_id=APPLICATION)
        await stack.log.append([unreadable])
    await catch_up(stack.log, 10)


async def _damage(stack: Stack) -> None:
    await stack.admin.execute("UPDATE userlog.users SET lifecycle = 2")
    await rewrite_state(stack, stack.log.stream(APPLICATION, USER), dict.clear)


async def test_all_that_is_shown(terminal: Terminal, stack: Stack) -> None:
    """Wide, narrow and as JSON, each command shows what is there, and JSON is of the same value."""
    (key,) = await stack.quarantine.keys(None)
    plain: list[tuple[str, ...]] = [
        ("user", APPLICATION, USER),
        ("user", APPLICATION, USER, "--valid-at", "2023-06-13T09:48:48Z"),
        ("history", APPLICATION, USER),
        ("history", APPLICATION, USER, "--order", "desc", "--limit", "1"),
        ("quarantine", "list"),
        ("quarantine", "show", str(key)),
        ("token", "list"),
        ("settings",),
    ]
    await _check(terminal, plain)
    await _check(terminal, [("status",)], value=False)
    await _check(terminal, [("stats", APPLICATION, *DAY)], value=False, in_json=True)
    await _check(terminal, [("quarantine", "replay", str(key))], value=False)
    await _park(stack)
    await _check(terminal, [("parked",), ("history", APPLICATION, USER)])
    await _check(terminal, [("rebuild", "--parked")], value=False)
    await _damage(stack)
    await _check(terminal, [("user", APPLICATION, "v")])
    done = await terminal.run("token", "create", "--name", ID, "--json")
    assert (done.code, raw_in(done.out)) == (0, [])


async def _check(
    terminal: Terminal,
    commands: list[tuple[str, ...]],
    *,
    value: bool = True,
    in_json: bool | None = None,
) -> None:
    for command in commands:
        assert_shown(await terminal.run(*command), command, value=value)
        narrow = await terminal._replace(columns=NARROW).run(*command)
        assert raw_in(narrow.out + narrow.err) == [], command
        done = await terminal.run(*command, "--json")
        assert raw_in(done.out + done.err) == [], command
        assert done.out.count("\n") == 1, (command, done)
        found = list(texts_in(json.loads(done.out)))
        if value if in_json is None else in_json:
            assert [text for text in found if text.endswith((TEXT, ID, TEXT[1:]))], command


async def test_differences(terminal: Terminal, stack: Stack) -> None:
    """Users and fields whose rows differ are named."""
    await _damage(stack)
    await _check(terminal, [("rebuild", "--diff", "--workers", "1")])
    done = await terminal.run("rebuild", "--verify-only", "--workers", "1")
    assert_shown(done, ("rebuild", "--verify-only"))
    assert_shown(await terminal.run("rebuild", "--workers", "1"), ("rebuild",))
    for option in ("--rollback", "--drop"):
        assert_shown(await terminal.run("rebuild", option), (option,), value=False)


async def test_answers_of_another_service(terminal: Terminal, tmp_path: Path) -> None:
    """Neither the names of files nor what a service answers reaches the terminal raw."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"title": TEXT, "positions": [TEXT]}, status=400)

    file = _file(tmp_path)
    file.write_bytes(b"{}")
    service = web.Application()
    service.router.add_post("/x", answer)
    async with TestServer(service) as server:
        await _check(terminal, [("send", "--url", str(server.make_url("/x")), str(file))])


def _file(folder: Path) -> Path:
    """Return a path of these characters; a name has at most 255 bytes."""
    for start in range(0, len(ID), 50):
        folder = folder / f"_{ID[start : start + 50]}"
    folder.mkdir(parents=True)
    return folder / "file.json"


async def test_arguments_that_are_quoted(terminal: Terminal, tmp_path: Path) -> None:
    """An error that quotes an argument shows it, whether the error is userlog's own or typer's."""
    missing = _file(tmp_path)
    quoting: list[tuple[str, ...]] = [
        ("import", str(missing)),
        ("send", str(missing)),
        ("export", "--out", str(missing / "x")),
        (f"command{ID}",),
        (f"--option{ID}",),
        ("token", f"command{ID}"),
        ("status", f"extra{ID}"),
        ("status", f"--option{ID}"),
        ("history", APPLICATION, USER, "--order", ID),
        ("token", "create", "--name", "x", "--scope", ID),
    ]
    for command in quoting:
        done = await terminal.run(*command)
        assert done.code in (1, 2), command
        assert_shown(done, command)


async def test_other_errors(terminal: Terminal, stack: Stack) -> None:
    """Nor is anything raw in those that quote nothing by now."""
    failing: list[tuple[str, ...]] = [
        ("user", APPLICATION, f"none{ID}"),
        ("user", APPLICATION, USER, "--valid-at", ID),
        ("history", APPLICATION, USER, "--after", ID),
        ("stats", f"none{ID}"),
        ("stats", APPLICATION, "--from", ID),
        ("export", "--after", ID),
        ("verify", "--against", ID),
        ("verify", "--against", "0:1:00"),
        ("rebuild", "--user", ID),
        ("rebuild", "--user", f"{APPLICATION}/none"),
        ("token", "revoke", ID),
        ("quarantine", "show", ID),
        ("quarantine", "list", "--limit", ID),
        ("quarantine", "purge"),
    ]
    for command in failing:
        done = await terminal.run(*command)
        assert done.code in (1, 2), command
        assert_shown(done, command, value=False)
    without_key = {name: value for name, value in terminal.environ.items() if "KEY" not in name}
    for name, value in (
        ("USERLOG_DATABASE_URL", with_database(stack.url, "x\x1b\u202e")),
        ("USERLOG_PORT", TEXT[1:]),
        ("USERLOG_MASTER_KEY_FILE", TEXT[1:]),
    ):
        environ = without_key if "KEY" in name else terminal.environ
        done = await terminal._replace(environ={**environ, name: value}).run("status")
        assert done.code == 2, name
        assert_shown(done, (name,), value=False)


async def test_prompt(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question before an erasure shows whom it is about; then they are erased."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    done = await terminal.run("erase", APPLICATION, USER)
    assert done.code == 1
    assert_shown(done, ("erase",))
    await _check(terminal, [("erase", APPLICATION, USER, "--yes")], value=False)
    for command in ("user", "history"):
        assert_shown(await terminal.run(command, APPLICATION, USER), (command,), value=False)


async def test_export(terminal: Terminal, tmp_path: Path) -> None:
    """An export to a terminal is of the same values, and imported all of it is known already."""
    file, shown = tmp_path / "file.jsonl", tmp_path / "shown.jsonl"
    assert (await terminal.run("export", "--out", str(file))).code == 0
    piped = await terminal.run("export")
    assert piped.out == file.read_text()
    assert len(raw_in(piped.out)) > 100  # as delivered
    there = await on_terminal(terminal, "export")
    shown.write_text(there)
    assert raw_in(there) == []
    seen, kept = (
        [json.loads(line) for line in text.removesuffix("\n").split("\n")]
        for text in (there, piped.out)
    )
    assert len(seen) == 6
    assert seen == kept
    done = await terminal.run("import", str(shown), "--json")
    assert json.loads(done.out) == {
        "appended": 0,
        "duplicates": 5,
        "erased": 0,
        "ignored": 0,
        "quarantined": 1,
        "left_out": 0,
    }


@pytest.mark.parametrize(
    "command",
    [
        ("subject", APPLICATION, USER),
        ("users", "export"),
        ("users", "export", "--format", "jsonl"),
        ("erasures", "--json"),
        ("erasures",),
    ],
    ids=" ".join,
)
async def test_personal_data_on_a_terminal(terminal: Terminal, command: tuple[str, ...]) -> None:
    """What is written out whole shows nothing raw on a terminal either."""
    erased = await terminal.run("erase", APPLICATION, "v", "--yes", "--reason", f"r{TEXT[1:]}")
    assert erased.code == 0
    there = await on_terminal(terminal, *command)
    assert raw_in(there) == []
    assert "\\" in there


async def on_terminal(terminal: Terminal, *arguments: str) -> str:
    """Run a command whose output is a terminal, and return what came there."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)

    def read() -> bytes:
        parts: list[bytes] = []
        try:
            while part := os.read(ours, 1 << 16):
                parts.append(part)
        except OSError:  # as Linux tells that nobody writes any more
            pass
        return b"".join(parts)

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        done = await terminal._replace(out=theirs).run(*arguments)
        assert done.code == 0, done.err
    finally:
        os.close(theirs)
        found = await reading
        os.close(ours)
    return found.decode()


def test_no_command_is_forgotten() -> None:
    """A new command has a place in one of the two lists."""
    assert {" ".join(words) for words in all_commands()} == WITH_VALUES | WITHOUT_VALUES
