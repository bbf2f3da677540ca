"""Signed heads: kept in the table, a file and elsewhere, judged without a database, and held to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.support.deliveries import delivery
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import Home


class Keeper:
    """Takes what is posted to it, after some refusals."""

    def __init__(self, refusals: int) -> None:
        self.bodies: list[str] = []
        self.refused = 0
        self._refusals = refusals

    async def take(self, request: web.Request) -> web.Response:
        """Take a body, or refuse it."""
        if self.refused < self._refusals:
            self.refused += 1
            raise web.HTTPServiceUnavailable
        self.bodies.append(await request.text())
        return web.Response()

    async def begin(self) -> tuple[web.AppRunner, str]:
        """Listen; return what ends it, and the URL."""
        app = web.Application()
        app.router.add_post("/heads", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return runner, f"http://127.0.0.1:{port}/heads"


async def test_signed_as_it_goes_on(own_home: Home, tmp_path: Path) -> None:
    """The newest is in the table, the file, the log and elsewhere; a restore leaves the file."""
    keeper = Keeper(refusals=1)
    runner, url = await keeper.begin()
    home = own_home.where(USERLOG_SIGNED_HEAD_EVENTS="3", USERLOG_SIGNED_HEADS_URL=url)
    backup = tmp_path / "backup"
    file = home.folder / "signed-heads"
    async with home.serving() as service:
        await service.post(delivery("u"), home.secret)

        async def first() -> bool:
            return any("\n1\n" in body for body in keeper.bodies)

        await until(first)
        assert keeper.refused == 1
        assert (await home.run("backup", str(backup))).code == 0
        for n in range(5):
            await service.post(delivery("u", "update", n), home.secret)

        async def newest() -> bool:
            return file.read_text() == keeper.bodies[-1] and "\n1\n" not in keeper.bodies[-1]

        await until(newest)
        answer = await service.get("/v1/signed-heads")
        (head,) = answer.body["heads"]
        assert head["note"] == file.read_text()
        key = (await home.run("signed-heads", "--public-key")).out.strip()
        assert answer.body["public_key"] == key
        assert (await home.run("verify")).code == 0
        printed = await home.run("signed-heads")
        assert printed.out.strip() == head["note"].strip()
    await runner.cleanup()
    log = home.folder.with_suffix(".log").read_text()
    assert '"signed head"' in log
    kept = tmp_path / "kept"
    kept.write_text(head["note"])

    restored = replace(own_home, folder=tmp_path / "restored")
    restored.folder.mkdir(mode=0o700)
    for name in ("master-key", "webhook-secret", "api-token", "signed-heads"):
        (restored.folder / name).write_bytes((own_home.folder / name).read_bytes())
        (restored.folder / name).chmod(0o600)
    assert (await restored.run("restore", str(backup))).code == 0
    assert (restored.folder / "signed-heads").read_text() == head["note"]
    done = await restored.run("verify", "--signed-head", str(kept))
    assert (done.code, "and the log ends at 0:1" in done.err) == (1, True)


async def test_judged_with_nothing_but_a_key(home: Home, tmp_path: Path) -> None:
    """In an empty folder and environment: a good file, and forged ones."""
    async with home.serving() as service:
        await service.post(delivery("u"), home.secret)
        key = (await home.run("signed-heads", "--public-key")).out.strip()
        good = tmp_path / "good"
        done = await home.run("signed-heads", "--sign", "--out", str(good))
        assert done.code == 0, done.err
    forged = tmp_path / "forged"
    forged.write_text(good.read_text().replace("\n1\n", "\n2\n"))
    cut = tmp_path / "cut"
    cut.write_text(good.read_text().partition("\u2014")[0])
    empty = tmp_path / "empty"
    empty.mkdir()

    def check(file: Path, given: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "api", "signed-heads", "--check", str(file))
        return subprocess.run(
            [*command, "--public-key", given],
            env={},
            cwd=empty,
            capture_output=True,
            text=True,
            check=False,
        )

    done_well = await asyncio.to_thread(check, good, key)
    assert done_well.returncode == 0, done_well.stderr
    assert done_well.stdout.startswith("good: 0:1 of log ")
    for file, said in ((forged, "no good signature"), (cut, "no file of signed heads")):
        refused = await asyncio.to_thread(check, file, key)
        assert refused.returncode == 1
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    other = await asyncio.to_thread(check, good, key[:-6] + "AAAAA=")
    assert other.returncode == 2
    assert list(empty.iterdir()) == []


async def test_since_several(home: Home, tmp_path: Path) -> None:
    """Of a file that grew, the newest of each partition counts; all have to hold."""
    files = [tmp_path / "older", tmp_path / "newer"]
    async with home.serving() as service:
        for n, file in enumerate(files):
            await service.post(delivery("u", "update", n), home.secret)
            assert (await home.run("signed-heads", "--sign", "--out", str(file))).code == 0
    both = tmp_path / "both"
    both.write_text(f"\ufeff{files[1].read_text()}\n{files[0].read_text()}", newline="\r\n")
    since = await home.json("verify", "--since", str(both))
    assert since == {"events": 0, "rows": 1, "findings": []}
    async with home.database() as database:
        await database.execute("SET session_replication_role = replica")
        await database.execute("UPDATE userlog.events SET chain = NULL WHERE position = 1")
        await database.execute("DELETE FROM userlog.signed_heads")
    done = await home.run("verify", "--since", str(both))
    assert (done.code, "0:1 has another hash than was signed" in done.err) == (1, True)


@pytest.mark.parametrize("workers", ["1", "3"])
async def test_since(home: Home, tmp_path: Path, workers: str) -> None:
    """Only what came after a signed head is read, and the users; in several processes too."""
    kept = tmp_path / "kept"
    async with home.serving() as service:
        for n in range(30):
            await service.post(delivery(f"u{n % 10}", "update", n), home.secret)
        assert (await home.run("signed-heads", "--sign", "--out", str(kept))).code == 0
        for n in range(7):
            await service.post(delivery(f"u{n}", "update", 100 + n), home.secret)
    whole = await home.json("verify", "--workers", workers)
    assert whole == {"events": 37, "rows": 37 + 10, "findings": []}
    since = await home.json("verify", "--since", str(kept), "--workers", workers)
    assert since == {"events": 7, "rows": 7 + 10, "findings": []}
    async with home.database() as database:
        await database.execute("SET session_replication_role = replica")
        await database.execute("UPDATE userlog.events SET kind = 3 WHERE position IN (5, 35)")
    for options, position in (((), "0:5"), (("--since", str(kept)), "0:35")):
        done = await home.run("verify", *options, "--workers", workers, "--json")
        (found,) = json.loads(done.out)["findings"]
        assert (done.code, found["position"]) == (1, position)


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


async def test_worker_killed(home: Home) -> None:
    """As soon as it is there: one sentence says so."""
    assert (await home.run("init")).code == 0
    process = await home.start("verify", "--workers", "2")

    async def workers() -> list[int]:
        return children(process.pid)

    os.kill((await until(workers))[0], signal.SIGKILL)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "was ended by signal 9" in err.decode()
    assert len(err.splitlines()) == 1, err


async def test_wrong_use(home: Home, tmp_path: Path) -> None:
    """It is said what is missing, and nothing is taken for good that is not."""
    file = tmp_path / "file"
    file.write_text("no note\n")
    for arguments, code in (
        (("signed-heads", "--check", str(file)), 2),
        (("signed-heads", "--check", str(file), "--public-key", "x"), 2),
        (("signed-heads", "x"), 2),
        (("signed-heads",), 1),
        (("verify", "--signed-head", str(file)), 1),
        (("verify", "--since", str(file)), 1),
        (("verify", "--since", str(tmp_path / "none")), 1),
        (("verify", "--workers", "0"), 2),
    ):
        done: Any = await home.run(*arguments)
        assert done.code == code, (arguments, done.err)
        assert "Traceback" not in done.err
    async with home.database() as database:
        key = "SELECT count(*) FROM userlog.keys WHERE name = 'signing'"
        assert await database.fetchval(key) == 0, "verify makes none"
