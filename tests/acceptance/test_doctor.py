"""`userlog doctor`: what is wrong is named, and what to do about it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from eventstore.events import Position
from eventstore.postgres.pool import open_owner_pool
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.rotation import rotate
from projections.fold.state import FOLD_VERSION
from projections.project.projector import catch_up
from tests.conftest import MASTER_KEY
from tests.support.commands import Terminal
from tests.support.database import alter, connected
from tests.support.deliveries import APP, delivery
from tests.support.events import BY
from tests.support.processes import Home, configured
from tests.support.server import as_service, with_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Stack
    from tests.support.server import Server

NEW = b"another key, for tests only 32 b"


async def examined(terminal: Terminal, *arguments: str) -> dict[str, list[dict[str, str]]]:
    """Return the findings by what they are about; the exit code is as they say."""
    done = await terminal.run("doctor", "--json", *arguments)
    findings: list[dict[str, str]] = msgspec.json.decode(done.out)
    broken = any(one["state"] == "broken" for one in findings)
    assert done.code == int(broken), done.err
    by_name: dict[str, list[dict[str, str]]] = {}
    for one in findings:
        assert bool(one["todo"]) == (one["state"] != "ok"), one
        by_name.setdefault(one["about"], []).append(one)
    return by_name


def the(found: dict[str, list[dict[str, str]]], about: str) -> tuple[str, str, str]:
    """Return the one finding about something."""
    (one,) = found[about]
    return one["state"], one["found"], one["todo"]


@pytest.fixture
async def well(stack: Stack) -> Terminal:
    """Where nothing is wrong: a log with events that are projected and verified."""
    for n in range(3):
        await stack.ingest.deliver(delivery(f"u{n}"))
    await catch_up(stack.log, 10)
    terminal = Terminal(configured(as_service(stack.url)))
    assert (await terminal.run("verify")).code == 0
    await stack.log.close()
    return terminal


async def test_all_is_well(well: Terminal) -> None:
    """Then every line says so, and the exit code is 0."""
    found = await examined(well)
    # The tests' own server may lose what is on it.
    others = [each for about, each in found.items() if about != "settings"]
    assert {one["state"] for each in others for one in each} == {"ok"}, found
    assert MasterKey(MASTER_KEY).current.hex() in the(found, "master key")[1]
    assert the(found, "schema")[1].endswith("1 partition")
    assert the(found, "last event")[1].startswith("3 events,")
    page = await well._replace(columns=300).run("doctor")
    for about in found:
        assert about in page.out


# What is done to a database in which all is well, and what is said of it then.
DONE = {
    "wrong clock": (
        (
            "CREATE FUNCTION userlog.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
            " AS $$SELECT pg_catalog.clock_timestamp() + interval '1 hour'$$"
        ),
        ("clock", "broken", "59 minutes ahead", "NTP"),
    ),
    "lag": (
        (
            "UPDATE userlog.checkpoints SET position = 1; UPDATE userlog.events"
            " SET recorded_at = recorded_at - interval '1 hour'"
        ),
        (
            "read models",
            "warning",
            "2 events are not projected; the oldest waits for 1 hour",
            "log",
        ),
    ),
    "interrupted rebuild": (
        (
            "INSERT INTO userlog.generations (generation, state, fold, version, phase)"
            f" VALUES (2, 'building', {FOLD_VERSION}, 'x', 'building')"
        ),
        ("rebuild", "warning", "interrupted", "`userlog rebuild`"),
    ),
    "foreign index": (
        "CREATE INDEX mine ON userlog.events (recorded_at)",
        ("additional objects", "warning", "index mine on events", "drop them"),
    ),
    "foreign trigger": (
        (
            "CREATE TRIGGER theirs BEFORE INSERT ON userlog.events FOR EACH STATEMENT"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        ("additional objects", "warning", "trigger theirs on events", "drop them"),
    ),
    "stale verification": (
        "UPDATE userlog.verifications SET verified_at = now() - interval '9 days'",
        ("verification", "warning", "passed 9 days ago", "userlog verify"),
    ),
    "failed verification": (
        "UPDATE userlog.verifications SET passed = false",
        ("verification", "broken", "partition 0", "userlog verify"),
    ),
    "never verified": (
        "DELETE FROM userlog.verifications",
        ("verification", "warning", "never", "userlog verify"),
    ),
    "silence": (
        "UPDATE userlog.log_head SET recorded_at = now() - interval '2 days'",
        ("last event", "warning", "2 days ago", "blocked"),
    ),
    "a head in the future": (
        "UPDATE userlog.log_head SET recorded_at = now() + interval '2 days'",
        ("last event", "warning", "in the future", "clock"),
    ),
    "something in quarantine": (
        (
            "SELECT userlog.quarantine_put(0, (SELECT fingerprint FROM userlog.log_head), '{}',"
            " ARRAY[gen_random_uuid()], '{NULL}', '{NULL}', '{NULL}', '{no-users}', '{\"\"}',"
            " '{300}', '{x}', '{x}')"
        ),
        ("quarantine", "warning", "1 delivery, 300 bytes", "replay"),
    ),
    "read models without rows": (
        "DELETE FROM userlog.users",
        ("read models", "broken", "are empty, and the log is not", "userlog rebuild"),
    ),
    "a row that differed": (
        "INSERT INTO userlog.scrubs VALUES (0, 5, 1, now(), now())",
        ("comparison with the log", "broken", "a row differed", "--diff"),
    ),
    "an upgrade that was killed after the switch": (
        "COMMENT ON TABLE userlog.quarantine IS 'kept whole'",
        ("upgrade", "warning", "not all taken apart", "userlog upgrade"),
    ),
    "an unfinished upgrade": (
        "CREATE SCHEMA userlog_next; COMMENT ON SCHEMA userlog_next IS 'filling x'",
        ("upgrade", "warning", "unfinished", "userlog upgrade"),
    ),
    "an unfinished rotation": (
        "INSERT INTO userlog.keys VALUES ('previous', '12345678')",
        ("master key", "broken", "is unfinished", "Another master key"),
    ),
    "a part that is missing": (
        "DROP FUNCTION userlog.token_used",
        ("schema", "broken", "token_used is missing", "A new version"),
    ),
    "a dangerous setting": (
        (
            "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
            " current_database()); END$$"
        ),
        ("settings", "broken", "what was acknowledged can be lost", "set synchronous_commit"),
    ),
}


@pytest.mark.parametrize("state", DONE)
async def test_what_is_wrong_is_named(well: Terminal, stack: Stack, state: str) -> None:
    """Each state has its line, with what was seen and what to do."""
    statement, (about, how, seen, todo) = DONE[state]
    async with stack.admin.acquire() as connection:
        await connection.execute(statement)
    found = (await examined(well))[about]
    assert [
        one for one in found if one["state"] == how and seen in one["found"] and todo in one["todo"]
    ], found


async def test_a_parked_user(well: Terminal, stack: Stack) -> None:
    """Counted, and not named."""
    receipt = await stack.ingest.deliver(delivery("parked"))
    await alter(stack, Position.parse(receipt.positions[0]).number)
    await catch_up(stack.log, 10)
    state, found, todo = the(await examined(well), "parked users")
    assert (state, found) == ("warning", "1 with an event that can't be projected")
    assert "userlog parked" in todo


async def test_nobody_is_left(well: Terminal, stack: Stack) -> None:
    """Where all users are erased or parked, no row is missing in the read models."""
    for n in range(3):
        await stack.log.erase(stack.log.stream(APP, f"u{n}"), BY)
    receipt = await stack.ingest.deliver(delivery("parked"))
    await alter(stack, Position.parse(receipt.positions[0]).number)
    await catch_up(stack.log, 10)
    assert await stack.admin.fetchval("SELECT count(*) FROM userlog.users") == 0
    assert the(await examined(well), "read models")[0] == "ok"


async def test_an_old_key(well: Terminal, stack: Stack) -> None:
    """Who has the key from before a rotation sees both fingerprints; who has both, what to do."""
    both = well.where(
        USERLOG_MASTER_KEY=base64.b64encode(NEW).decode(),
        USERLOG_PREVIOUS_MASTER_KEY=base64.b64encode(MASTER_KEY).decode(),
    )
    state, found, todo = the(await examined(both), "master key")
    assert (state, todo) == ("warning", "run `userlog rotate-master-key`")
    assert f"written with the previous one, {MasterKey(MASTER_KEY).new.hex()}" in found
    owner = await open_owner_pool(stack.url, size=2, timeout_s=30)
    await rotate(owner, 1, MasterKey(NEW, MASTER_KEY), lambda _: None)
    await owner.close()
    state, found, todo = the(await examined(well), "master key")
    assert state == "broken"
    assert MasterKey(NEW).new.hex() in found
    assert MasterKey(MASTER_KEY).new.hex() in found
    assert "Another master key" in todo
    state, found, todo = the(await examined(both), "master key")
    assert (state, todo) == ("warning", "take the old key away")
    assert f"written with the new one, {MasterKey(NEW).new.hex()}" in found


async def test_another_version_is_connected(well: Terminal, stack: Stack) -> None:
    """A service of another version is named by its version."""
    other = await asyncpg.connect(
        as_service(stack.url), server_settings={"application_name": "userlog 0.0.1"}
    )
    state, found, todo = the(await examined(well), "other sessions")
    await other.close()
    assert state == "warning"
    assert "userlog 0.0.1" in found
    assert "stop it" in todo


async def test_the_owners_login(well: Terminal, stack: Stack) -> None:
    """One that could change the log is a warning."""
    found = await examined(well.where(USERLOG_DATABASE_URL=stack.url))
    assert the(found, "login")[0] == "warning"


async def test_a_database_that_is_away(well: Terminal) -> None:
    """It is the one thing that is broken, and what needs no database is looked at all the same."""
    found = await examined(well.where(USERLOG_DATABASE_URL="postgresql://u@127.0.0.1:9/x"))
    state, said, _ = the(found, "database")
    assert state == "broken"
    assert "nothing listens" in said
    assert found.keys() == {"versions", "secrets", "database"}


async def test_a_database_that_hangs(well: Terminal, stack: Stack) -> None:
    """Who waits for a lock that is not let go says so, and does not wait for ever."""
    async with stack.admin.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE userlog.keys IN ACCESS EXCLUSIVE MODE")
        found = await asyncio.wait_for(examined(well.where(USERLOG_DATABASE_TIMEOUT_S="1")), 30)
    first, last = found["database"]
    assert (first["state"], last["state"]) == ("ok", "broken")
    assert "TimeoutError" in last["found"]
    assert "Who waits for whom" in last["todo"]


async def test_a_standby(made_home: Home) -> None:
    """A server that only follows another one takes no delivery, so it is broken."""
    (made_home.folder / "postgres" / "standby.signal").touch()
    found = await examined(Terminal({"USERLOG_DATA_DIR": str(made_home.folder)}))
    state, said, todo = the(found, "database")
    assert state == "broken"
    assert "takes no writes" in said
    assert "primary" in todo


async def test_a_wrong_setting(well: Terminal) -> None:
    """It is named as everywhere, and is what is broken."""
    state, found, _ = the(await examined(well.where(USERLOG_PORT="many")), "settings")
    assert state == "broken"
    assert "USERLOG_PORT" in found


async def test_a_weak_secret(well: Terminal) -> None:
    """A token that can be guessed is broken, and is not shown."""
    state, found, _ = the(await examined(well.where(USERLOG_API_TOKEN="x1x1")), "settings")
    assert state == "broken"
    assert "USERLOG_API_TOKEN" in found
    assert "x1x1" not in found


async def test_secrets_in_files(well: Terminal, tmp_path: Path) -> None:
    """Their age is said; one that others can read, and one that is old, are warnings."""
    file = tmp_path / "key"
    file.write_text(base64.b64encode(MASTER_KEY).decode())
    file.chmod(0o600)
    terminal = Terminal({**well.environ, "USERLOG_MASTER_KEY_FILE": str(file)})
    del terminal.environ["USERLOG_MASTER_KEY"]
    assert the(await examined(terminal), "secrets")[:2] == (
        "ok",
        "master key less than a second old",
    )
    file.chmod(0o604)
    assert "others can read" in the(await examined(terminal), "secrets")[1]
    file.chmod(0o600)
    os.utime(file, (0, 1))
    state, _, todo = the(await examined(terminal), "secrets")
    assert state == "warning"
    assert "docs/deploying.md, Another webhook secret" in todo
    assert "docs/operations.md, Another master key" in todo


async def test_an_empty_file_is_no_secret(well: Terminal, tmp_path: Path) -> None:
    """The file for a previous master key is empty between rotations, and does not grow old."""
    file = tmp_path / "previous-master-key"
    file.touch(mode=0o600)
    file.write_text("\n")
    os.utime(file, (0, 1))
    terminal = well.where(USERLOG_PREVIOUS_MASTER_KEY_FILE=str(file))
    state, found, _ = the(await examined(terminal), "secrets")
    assert state == "ok"
    assert "previous" not in found


async def test_a_wrong_encoding(server: Server, well: Terminal) -> None:
    """A database that can't hold every name is broken before anything is in it."""
    async with connected(server.url) as admin:
        await admin.execute(
            "CREATE DATABASE userlog_test_latin ENCODING 'LATIN1' LOCALE 'C'"
            " LOCALE_PROVIDER libc TEMPLATE template0"
        )
        url = with_database(server.url, "userlog_test_latin")
        found = await examined(well.where(USERLOG_DATABASE_URL=url))
        await admin.execute("DROP DATABASE userlog_test_latin WITH (FORCE)")
    assert the(found, "encoding")[0] == "broken"
    assert "LATIN1" in the(found, "encoding")[1]
    assert the(found, "schema")[0] == "broken"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for an embedded database and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount")
    options = ("-t", "tmpfs", "-o", "size=90m,mode=711", "tmpfs", folder)
    if subprocess.run((mount, *options), check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(("umount", folder), check=True)


async def test_a_disk_that_is_full(small_disk: Path) -> None:
    """How much is free is said before the database needs it."""
    home = Home(small_disk / "data")
    assert (await home.run("init")).code == 0
    state, found, todo = the(
        await examined(Terminal({"USERLOG_DATA_DIR": str(home.folder)})), "disk"
    )
    assert state == "broken"
    assert "are free" in found
    assert "make room" in todo


async def test_a_data_directory_that_is_closed(tmp_path: Path) -> None:
    """What the system refuses, as to another account than the service's, is a line of the page."""
    folder = tmp_path / ("x" * 300)  # too long for a name: root is refused nothing else
    state, found, todo = the(
        await examined(Terminal({"USERLOG_DATA_DIR": str(folder)})), "data directory"
    )
    assert state == "broken"
    assert f"can't use {folder}" in found
    assert "account" in todo


async def test_a_bundle_on_a_full_disk(small_disk: Path, well: Terminal) -> None:
    """What was found is shown all the same, and no half of a bundle is left."""
    with (small_disk / "fill").open("wb") as file:
        file.write(bytes(80 << 20))
        with contextlib.suppress(OSError):
            file.write(bytes(20 << 20))
    bundle = small_disk / "bundle.json"
    done = await well.run("doctor", "--bundle", str(bundle))
    assert done.code == 1
    assert "master key" in done.out
    assert f"can't use {bundle} (No space left on device)" in done.err
    assert not bundle.exists()


async def test_nothing_is_made(tmp_path: Path) -> None:
    """Where there is no userlog, that is what is broken, and the folder stays empty."""
    found = await examined(Terminal({"USERLOG_DATA_DIR": str(tmp_path)}))
    assert the(found, "database")[0] == "broken"
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - it blocks no loop for long


async def test_no_secret_is_made(made_home: Home) -> None:
    """Generated secrets that are missing are for a start to make."""
    for name in ("webhook-secret", "api-token"):
        (made_home.folder / name).unlink()
    found = await examined(Terminal({"USERLOG_DATA_DIR": str(made_home.folder)}))
    assert the(found, "secrets")[1].startswith("master key ")
    names = [one.name for one in made_home.folder.iterdir() if not one.name.startswith("postgres")]
    assert names == ["master-key"]


async def test_secrets_that_are_not_used(well: Terminal, tmp_path: Path) -> None:
    """With a server, the data directory's generated ones are some other userlog's."""
    (tmp_path / "api-token").write_text("x")
    terminal = well.where(USERLOG_DATA_DIR=str(tmp_path), USERLOG_API_TOKEN="")
    found = await examined(terminal)
    assert the(found, "secrets")[1] == "given by the environment"


async def test_bundle(well: Terminal, tmp_path: Path) -> None:
    """It has the same and more, in a new file for the owner alone; one that is there stays."""
    file = tmp_path / "bundle.json"
    await well.run("doctor", "--bundle", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    held: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    assert held.keys() >= {"made_at", "findings", "settings", "changed_settings", "table_sizes"}
    assert held["settings"]["USERLOG_MASTER_KEY"] == ["set, hidden", "environment"]
    again = await well.run("doctor", "--bundle", str(file))
    assert again.code == 1
    assert "File exists" in again.err
    assert "master key" in again.out
