"""Commands that erase, list erasures, and write out personal data."""

from __future__ import annotations

import csv
import io
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from api.cli.failures import FAILED, WRONG_USE
from projections.project.projector import catch_up
from tests.support.commands import Terminal
from tests.support.database import connected
from tests.support.deliveries import APP, delivery, encoded, entry, envelope
from tests.support.events import BY
from tests.support.processes import configured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Stack

PERSON: dict[str, Any] = {
    "first_name": "=cmd()",
    "last_name": 'O"Neill, Jo',
    "emails": [{"email": "second@example.com"}, {"email": "jo@example.com", "primary": True}],
    "phone_numbers": [{"phone": "+919000000021", "country_code": 91}],
    "loyalty": {"tier": 3},
}


@pytest.fixture
def terminal(database_url: str) -> Terminal:
    """A terminal where a userlog on a new database is configured."""
    return Terminal(configured(database_url))


async def filled(stack: Stack, users: int = 3) -> None:
    """Record some users of two applications."""
    for n in range(users):
        await stack.ingest.deliver(delivery(f"u{n}", **PERSON))
    other = envelope([entry("x", first_name="-1", username="@x")], application="other")
    await stack.ingest.deliver(encoded(other))
    await catch_up(stack.log, 100)


def stream_id(stack: Stack, user: str) -> str:
    """Return what a list has of a user."""
    return str(stack.log.stream(APP, user).stream_id)


async def test_who_and_why(stack: Stack, terminal: Terminal) -> None:
    """The command's user and the reason are kept; the list names both, in order."""
    await filled(stack)
    for n, reason in ((1, "ticket 1"), (0, "")):
        done = await terminal.run("erase", APP, f"u{n}", "--yes", "--reason", reason)
        assert done.code == 0, done.err
    found = json.loads((await terminal.run("erasures", "--json")).out)
    assert [(one["user_id"], one["reason"]) for one in found] == [("u1", "ticket 1"), ("u0", "")]
    assert {one["actor"]["kind"] for one in found} == {"command"}
    assert all(one["actor"]["name"] for one in found)
    table = (await terminal._replace(columns=200).run("erasures")).out
    assert "ticket 1" in table
    assert "0:5" in table


async def test_a_row_that_does_not_open(stack: Stack, terminal: Terminal) -> None:
    """The list, which a restore needs, is written all the same."""
    await filled(stack)
    await stack.log.erase(stack.log.stream(APP, "u1"), BY)
    await stack.admin.execute("UPDATE userlog.audit SET sealed = 'altered'")
    (found,) = json.loads((await terminal.run("erasures", "--json")).out)
    assert (found["user_id"], found["actor"]) == ("u1", None)


async def test_erased_before_the_audit(stack: Stack, terminal: Terminal) -> None:
    """An erasure without a row, as earlier versions made them, is listed without a name."""
    await filled(stack)
    await stack.log.erase(stack.log.stream(APP, "u1"), BY)
    async with connected(stack.url) as admin:
        await admin.execute("DELETE FROM userlog.audit")
    (found,) = json.loads((await terminal.run("erasures", "--json")).out)
    assert (found["user_id"], found["actor"], found["reason"]) == ("u1", None, None)
    assert (await terminal.run("erasures")).code == 0


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_a_list_is_applied(stack: Stack, terminal: Terminal, tmp_path: Path) -> None:
    """Who is in it is erased again, who is erased stays so, who is not there is counted."""
    await filled(stack)
    await stack.log.erase(stack.log.stream(APP, "u1"), BY)
    path = tmp_path / "erasures.jsonl"
    assert (await terminal.run("erasures", "--out", str(path))).code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (line,) = path.read_text().splitlines()
    assert json.loads(line).keys() == {"position", "stream_id", "erased_at"}
    other = str(stack.log.stream(APP, "u2").stream_id)
    unknown = str(stack.log.stream(APP, "nobody").stream_id)
    more = [json.dumps({"position": "0:9", "stream_id": one}) for one in (other, unknown)]
    path.write_text("\n".join([line, *more]) + "\n")
    done = await terminal.run("erase", "--from", str(path), "--yes", "--json")
    assert done.code == FAILED
    assert json.loads(done.out) == {"erased": 1, "already_erased": 1, "unknown": 1}
    assert "1 users of the list are not in this log" in done.err
    (row,) = await stack.log.audit.of_user(stack.log.stream(APP, "u2"))
    assert row.act.reason == "erased before at 0:9"


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_a_list_reaches_who_is_in_quarantine_alone(
    stack: Stack, terminal: Terminal, tmp_path: Path
) -> None:
    """A restored log may have nothing else of who was erased."""
    entries = [entry(f"q{n}", note="@") for n in range(3)]
    body = encoded(envelope(entries)).replace(b'"@"', b'"\xff"')
    assert (await stack.ingest.deliver(body)).quarantined == 3
    path = tmp_path / "erasures.jsonl"
    path.write_text(json.dumps({"position": "0:9", "stream_id": stream_id(stack, "q1")}))
    done = await terminal.run("erase", "--from", str(path), "--yes", "--json")
    assert (done.code, json.loads(done.out)["erased"]) == (0, 1)
    assert await stack.log.is_erased(stack.log.stream(APP, "q1"))
    assert await stack.quarantine.count() == 2


async def test_a_list_from_elsewhere(stack: Stack, terminal: Terminal, tmp_path: Path) -> None:
    """Another editor's line ends, mark and empty lines, and a user twice, don't matter."""
    await filled(stack)
    line = json.dumps({"position": "0:9", "stream_id": stream_id(stack, "u1")}).encode()
    path = tmp_path / "erasures.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (line + b"\r\n") * 600 + b"\r\n\n")
    done = await terminal.run("erase", "--from", str(path), "--yes", "--json")
    assert json.loads(done.out) == {"erased": 1, "already_erased": 0, "unknown": 0}


@pytest.mark.parametrize("text", ["{", "[]", '{"position":"0:1"}', "{}\n\xff", ""])
async def test_what_is_no_list(stack: Stack, terminal: Terminal, tmp_path: Path, text: str) -> None:
    """It erases nobody, and the line is named; an empty one is a list of nobody."""
    await filled(stack, 1)
    path = tmp_path / "list"
    path.write_text(text, encoding="latin-1")
    done = await terminal.run("erase", "--from", str(path), "--yes")
    assert done.code == (FAILED if text else 0)
    assert ("line 1" in done.err) == bool(text)
    assert not await stack.log.is_erased(stack.log.stream(APP, "u0"))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (APP,),
        (APP, "u", "--scrub"),
        (APP, "u", "--from", "x"),
        ("--scrub", "--from", "x"),
        (APP, "u", "--reason", "x" * 501),
    ],
)
async def test_one_thing_at_a_time(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    """Whoever names nobody, half of somebody, or two ways at once is told how."""
    done = await terminal.run("erase", *arguments, "--yes")
    assert done.code == WRONG_USE
    assert "Traceback" not in done.err


async def test_users_as_csv(stack: Stack, terminal: Terminal, tmp_path: Path) -> None:
    """Every user is a line, formulas are none, and the file is its owner's."""
    await filled(stack)
    path = tmp_path / "users.csv"
    done = await terminal.run("users", "export", "--out", str(path))
    assert (done.code, "4 users written" in done.err) == (0, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    found = {row["user_id"]: row for row in rows}
    assert found.keys() == {"u0", "u1", "u2", "x"}
    person = found["u0"]
    assert person["first_name"] == "'=cmd()"
    assert person["last_name"] == PERSON["last_name"]
    assert (person["email"], person["phone"]) == ("jo@example.com", "+919000000021")
    assert (found["x"]["first_name"], found["x"]["username"]) == ("-1", "'@x")


async def test_lines_within_a_value(stack: Stack, terminal: Terminal) -> None:
    """A value with line breaks or quotes in it is one cell."""
    values = ["=a\nb", "\n=a", "\uff1da", "a\nb", "a\rb", "a\r\nb", 'a"\n"b', "a,b\n"]
    for n, value in enumerate(values):
        await stack.ingest.deliver(delivery(f"u{n}", first_name=value))
    await catch_up(stack.log, 100)
    done = await terminal.run("users", "export", "--columns", "user_id,first_name")
    read = csv.reader(io.StringIO(done.out, newline=""))
    found = dict(list(read)[1:])
    assert [found[f"u{n}"].removeprefix("'") for n in range(len(values))] == values
    assert [found[f"u{n}"][0] for n in range(4)] == ["'", "'", "'", "a"]


async def test_users_of_one_application(stack: Stack, terminal: Terminal) -> None:
    """As JSON lines, whole or some columns; and who exported what is in the audit."""
    await filled(stack)
    some = ("--application", "other", "--format", "jsonl")
    done = await terminal.run("users", "export", *some)
    (whole,) = map(json.loads, done.out.splitlines())
    assert (whole["user_id"], whole["state"]["username"]) == ("x", "@x")
    done = await terminal.run("users", "export", *some, "--columns", "user_id,username,extra.no")
    assert json.loads(done.out) == {"user_id": "x", "username": "@x", "extra.no": None}
    done = await terminal.run(
        *("users", "export", "--application", APP, "--format", "jsonl"),
        *("--columns", "extra.loyalty,emails"),
    )
    assert json.loads(done.out.splitlines()[0])["extra.loyalty"] == {"tier": 3}
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.audit") == 3


async def test_columns_that_there_are_not(terminal: Terminal) -> None:
    """They are refused with the names of those that there are."""
    done = await terminal.run("users", "export", "--columns", "?")
    assert done.code == WRONG_USE
    assert "social_accounts" in done.err.replace("\n", "")


async def test_subject(stack: Stack, terminal: Terminal, tmp_path: Path) -> None:
    """One document, its owner's alone, with the request itself in it."""
    await filled(stack)
    path = tmp_path / "person.json"
    done = await terminal.run("subject", APP, "u0", "--out", str(path), "--reason", "asked")
    assert done.code == 0, done.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text())
    assert found["user"]["state"]["first_name"] == "=cmd()"
    assert [(one["action"], one["reason"]) for one in found["audit"]] == [("subject", "asked")]
    done = await terminal.run("subject", APP, "u0", "--reason", "x" * 501)
    assert done.code == WRONG_USE
    done = await terminal.run("subject", APP, "nobody", "--out", str(tmp_path / "none"))
    assert (done.code, (tmp_path / "none").exists()) == (FAILED, False)


async def test_an_import_erases_nobody_unasked(
    stack: Stack, terminal: Terminal, tmp_path: Path
) -> None:
    """A line that says so is left out, and counted, unless erasures are asked for."""
    await filled(stack)
    path = tmp_path / "file.jsonl"
    line = {"event": "user.erased", "application_id": APP, "user_id": "u0"}
    path.write_text(json.dumps({"userlog": line}, separators=(",", ":")) + "\n")
    done = await terminal.run("import", str(path))
    assert "1 lines about erased users were left out; --with-erasures takes them" in done.err
    assert not await stack.log.is_erased(stack.log.stream(APP, "u0"))
    done = await terminal.run("import", str(path), "--with-erasures", "--json")
    assert json.loads(done.out)["erased"] == 1
    (found,) = json.loads((await terminal.run("erasures", "--json")).out)
    assert found["actor"]["kind"] == "import"
