"""`userlog upgrade`, and services that meet a database of another version."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import msgspec
import pytest

from eventstore.errors import SchemaMovedError
from eventstore.postgres import embedded, schema, upgrade
from projections.rebuild.log_source import LogSource
from projections.upgrade import Watcher, upgrade_schema
from tests.conftest import MASTER_KEY
from tests.support.commands import Terminal
from tests.support.database import connected
from tests.support.deliveries import APP, SAMPLES, delivery
from tests.support.monitoring import run
from tests.support.older import OLDEST, USERS, fill, install, older_database
from tests.support.processes import Home, configured
from tests.support.serving import assert_problem, serving
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import Stack
    from tests.support.nursery import Nursery
    from tests.support.server import Server

NOW = schema.SCHEMA_VERSION
SERVICE = {"application_name": "userlog"}
OTHERS = [
    ("serve", "--port", "0"),
    ("project",),
    ("status",),
]
FIRST = f"/v1/applications/{APP}/users/u1"


@pytest.fixture
async def old_url(server: Server) -> AsyncIterator[str]:
    """The URL of a database of the oldest version."""
    async with older_database(server, OLDEST, 1) as url:
        yield url


async def test_the_command(old_url: str) -> None:
    """It says what it will do, does it once, and then has nothing to do."""
    where = Terminal(configured(old_url))
    plan = await where.run("upgrade", "--plan")
    assert (plan.code, plan.err) == (0, "")
    steps = upgrade.steps_after(OLDEST)
    for part in ("new read models are filled", "DROP TABLE userlog.users"):
        assert part in plan.out
    for step in steps:
        assert step.about in plan.out
        assert step.locks in plan.out
        lines = [line for one in step.statements for line in one.splitlines()]
        assert [line for line in lines if line not in plan.out] == []
    done = await where.run("upgrade", "--workers", "1")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"upgraded: schema version {OLDEST} is {NOW} now",
        "1 users are parked; see `userlog parked`",
    ]
    assert "all equal to the log" in done.err
    again = await where.run("upgrade", "--json")
    assert (again.code, again.out, again.err) == (0, "null\n", "")
    assert "nothing to do" in (await where.run("upgrade", "--plan")).out


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
async def test_on_a_server_others_name_the_command(
    old_url: str, tmp_path: Path, nursery: Nursery, command: tuple[str, ...]
) -> None:
    """One line, exit 2, and the database stays as it is."""
    done = await Home(tmp_path / "data", configured(old_url), nursery=nursery).run(*command)
    assert done.code == 2
    assert "`userlog upgrade` brings it to version" in done.err
    async with connected(old_url) as admin:
        assert await admin.fetchval("SELECT schema_version FROM userlog.meta") == OLDEST


async def test_killed_while_filling(old_url: str, tmp_path: Path, nursery: Nursery) -> None:
    """What was filled stays, and the next one comes to the same end."""
    home = Home(tmp_path / "data", configured(old_url), nursery=nursery)
    first = await home.start("upgrade", "--workers", "1")
    assert first.stderr
    assert b"filled from the log" in await first.stderr.readline()
    first.send_signal(signal.SIGKILL)
    await first.wait()
    done = await home.run("upgrade", "--workers", "2")
    assert (done.code, done.out.splitlines()[0]) == (
        0,
        f"upgraded: schema version {OLDEST} is {NOW} now",
    )


async def test_killed_after_the_switch(
    old_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """The next one begins the audit, and takes apart what an earlier version has kept whole."""
    await upgrade_schema(LogSource(old_url, MASTER_KEY, None, 30), 1, Watcher())
    async with connected(old_url) as admin:
        await admin.execute("COMMENT ON TABLE userlog.quarantine IS 'switched'")
        await admin.execute("UPDATE userlog.audit_head SET since = 0")
        stack = await open_stack(old_url)
        key = await stack.quarantine.put(delivery("late"), "not-json", "d")
        where = Terminal(configured(old_url))
        done = await where.run("upgrade")
        assert done.code == 0
        assert "is taken apart" in done.err
        assert await stack.quarantine.show(key) is None
        assert await stack.log.knows(stack.log.stream(APP, "late"))
        assert (await where.run("upgrade")).err == ""
        head = await admin.fetchval("SELECT position FROM userlog.log_head")
        assert 0 < await admin.fetchval("SELECT since FROM userlog.audit_head") < head


@pytest.fixture(scope="module")
async def old_data() -> AsyncIterator[Path]:
    """A data directory of the oldest version, only to be copied."""
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as folder:
        path = Path(folder) / "data"
        async with embedded.running(path, notice=lambda _: None) as url:
            await install(url, OLDEST, 1)
            await fill(url)
        yield path


@pytest.fixture
async def old_home(
    tmp_path: Path, old_data: Path, nursery: Nursery
) -> AsyncIterator[tuple[Home, str]]:
    """A data directory of the oldest version, and its running server."""
    secrets = {
        name: text for name, text in configured("").items() if name != "USERLOG_DATABASE_URL"
    }
    home = Home(tmp_path / "data", secrets, nursery=nursery)
    await run("cp", "--archive", str(old_data), str(home.folder))
    async with embedded.running(home.folder, notice=lambda _: None) as url:
        yield home, url


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_embedded(old_home: tuple[Home, str], workers: str) -> None:
    """`serve` upgrades by itself: 503 and how far it is, until the old service has gone."""
    home, url = old_home
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    old_service = await asyncpg.connect(url, server_settings=SERVICE)
    log = home.folder.with_suffix(".log")
    with log.open("ab") as stderr:
        serving_it = await home._begin(
            "serve", "--port", str(port), "--workers", workers, stderr=stderr
        )
    base, token = f"http://127.0.0.1:{port}", home.token
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as client:

        async def ask(path: str) -> tuple[int, Any]:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with client.get(base + path) as answer:
                    return answer.status, msgspec.json.decode(await answer.read())
            return 0, {}

        async def waits() -> bool:
            status, body = await ask("/health/ready")
            return status == 503 and "stop all services" in body["detail"]

        await until(waits)
        assert (await ask("/health/live"))[0] == 200
        await old_service.close()
        assert serving_it.stdout
        assert b"serves at" in await serving_it.stdout.readline()
        assert (await ask("/health/ready"))[0] == 200
        status, body = await ask(FIRST)
        assert (status, body["state"]["first_name"]) == (200, "3")
    async with connected(url) as admin:
        assert await admin.fetchval("SELECT count(*) FROM userlog.users") == USERS - 1
    serving_it.send_signal(signal.SIGTERM)
    assert await serving_it.wait() == 0


async def test_stopped_while_it_waits(old_home: tuple[Home, str]) -> None:
    """A signal ends a service that upgrades as it ends any other."""
    home, url = old_home
    old_service = await asyncpg.connect(url, server_settings=SERVICE)
    log = home.folder.with_suffix(".log")
    with log.open("ab") as stderr:
        process = await home._begin("serve", "--port", "0", stderr=stderr)
    await until(lambda: "stop all services" in log.read_text())
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    await old_service.close()


async def test_a_service_notices(database_url: str) -> None:
    """After an upgrade a service of the old version is not ready, and refuses with the reason."""
    async with serving(database_url) as service, connected(database_url) as admin:
        assert (await service.get("/health/ready")).status == 200
        await admin.execute(f"UPDATE userlog.meta SET schema_version = {NOW + 1}")
        answer = await service.get("/health/ready")
        assert_problem(answer, 503)
        assert answer.body["detail"] == str(SchemaMovedError())
        await admin.execute("ALTER FUNCTION userlog.append RENAME TO append_3")
        await admin.execute("ALTER TABLE userlog.users RENAME TO people")
        for refused in (await service.post(SAMPLES[0]), await service.get(FIRST)):
            assert_problem(refused, 503)
            assert refused.body["detail"] == str(SchemaMovedError())
        assert refused.headers["retry-after"]
