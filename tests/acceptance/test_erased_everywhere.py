"""Who was erased is in no answer, memory or table, and no old copy opens with a new key."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from eventstore.errors import SealBrokenError
from eventstore.sealing.keys import MasterKey
from tests.support.deliveries import APP, delivery, encoded, entry, envelope
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import Home, Service

USERS = 100
ERASED = [f"u{n}" for n in range(USERS)]
NAME = "Zephyrine"
PATH = f"/v1/applications/{APP}/users"
HOOKS = Path(__file__).parents[1] / "support" / "hooks"


async def deliver_all(home: Home, service: Service, turn: int) -> None:
    """Send something about each user, on connections of their own, so that all workers see some."""
    for first in range(0, USERS, 25):
        bodies = [
            delivery(user, "update", turn, first_name=NAME) for user in ERASED[first : first + 25]
        ]
        answers = await asyncio.gather(*(service.post(body, home.secret) for body in bodies))
        assert set(answers) == {200}


def emptied(folder: Path) -> Path:
    """Remove all files of a folder."""
    for path in folder.iterdir():
        path.unlink()
    return folder


async def counted(folder: Path, pids: list[int]) -> dict[int, tuple[int, int]]:
    """Return how many keyrings, and keys in them, processes have."""
    emptied(folder)
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)

    async def all_there() -> bool:
        return all((folder / str(pid)).exists() for pid in pids)

    await until(all_there)
    found = {pid: (folder / str(pid)).read_text().split() for pid in pids}
    return {pid: (int(keyrings), int(keys)) for pid, (keyrings, keys) in found.items()}


async def erase(service: Service, user: str) -> Any:
    """Erase a user over HTTP."""
    url = f"{service.base}{PATH}/{user}/personal-data?reason=test"
    async with aiohttp.request("DELETE", url, headers=service._headers) as response:
        assert response.status == 200
        return msgspec.json.decode(await response.read())


async def wrapped_keys(home: Home) -> list[bytes]:
    """Return the wrapped keys of all users."""
    async with home.database() as database:
        rows = await database.fetch("SELECT data_key FROM userlog.streams")
    return [row["data_key"] for row in rows]


def files_with(folder: Path, wanted: list[bytes]) -> list[str]:
    """Return the files of tables and statistics that have one of these in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(one in path.read_bytes() for one in wanted)]


async def test_a_hundred_users(  # noqa: PLR0915 - one life, from the first event to a new key
    own_home: Home, tmp_path: Path
) -> None:
    """Their keys leave answers, every process, the tables' files, and old copies for a new key."""
    counts = tmp_path / "counts"
    counts.mkdir()
    home = own_home.where(PYTHONPATH=str(HOOKS), USERLOG_TEST_COUNTS=str(counts))
    backup = tmp_path / "backup"
    async with home.serving("--workers", "2") as service:
        for turn in range(4):
            await deliver_all(home, service, turn)
        keys = await wrapped_keys(home)
        assert len(keys) == USERS
        workers = service.children()
        assert len(workers) == 3
        before = await counted(counts, workers)
        assert all(keyrings == 1 for keyrings, _ in before.values())
        assert sum(held > 0 for _, held in before.values()) >= 2, "both that answer have used them"
        async with home.database() as database:
            await database.execute("ANALYZE")
            await database.execute("CHECKPOINT")
        tables = home.folder / "postgres" / "base"
        assert files_with(tables, keys), "the keys are what is looked for"
        assert (await home.run("backup", str(backup))).code == 0

        await asyncio.gather(*(erase(service, user) for user in ERASED[1:]))
        done = await home.run("erase", APP, ERASED[0], "--yes", "--reason", "by command")
        assert done.code == 0, done.err

        async def none_holds_one() -> bool:
            now = await counted(counts, service.children())
            return not any(held for _, held in now.values())

        await until(none_holds_one)
        for user in ERASED:
            assert (await service.get(f"{PATH}/{user}")).status == 410
        assert (await service.get(f"{PATH}?username=nobody")).body["users"] == []
        exported = await home.run("export")
        assert NAME not in exported.out
        await deliver_all(home, service, 9)
        async with home.database() as database:
            left = await database.fetchval(
                "SELECT count(*) FROM userlog.events WHERE occurred_at ="
                " (SELECT max(occurred_at) FROM userlog.events WHERE kind < 4) AND payload <> ''"
            )
        assert left == 0

        done = await home.run("erase", "--scrub", "--yes")
        assert done.code == 0, done.err
        assert files_with(tables, keys) == []
        erasures = await home.json("erasures")
        assert {one["user_id"] for one in erasures} == set(ERASED)
        names = {(one["actor"]["kind"], one["reason"]) for one in erasures}
        assert names == {("token", "test"), ("command", "by command")}
        assert (await home.run("verify")).code == 0

    old_key = (home.folder / "master-key").read_text()
    new_key = base64.b64encode(secrets.token_bytes(32)).decode()
    rotating = own_home.where(
        USERLOG_MASTER_KEY=new_key, USERLOG_PREVIOUS_MASTER_KEY=old_key.strip()
    )
    done = await rotating.run("rotate-master-key")
    assert done.code == 0, done.err
    master = MasterKey(base64.b64decode(new_key))
    async with own_home.where(USERLOG_MASTER_KEY=new_key).serving() as service:
        assert (await service.get("/v1/status")).status == 200
    for wrapped in keys:
        with pytest.raises(SealBrokenError):
            master.unwrap(wrapped, bytes(16))
    copy = replace(own_home, folder=tmp_path / "copy").where(USERLOG_MASTER_KEY=new_key)
    shutil.copytree(backup, copy.folder)
    (copy.folder / "postgres").chmod(0o700)
    for command in (("user", APP, "u1"), ("export",)):
        refused = await copy.run(*command)
        assert refused.code != 0
        assert NAME not in refused.out + refused.err


async def test_quarantine_of_good_and_bad(own_home: Home) -> None:
    """Good users of bad deliveries are erased, and nothing shows anything of them any more."""
    bad = encoded(envelope([entry("good1", first_name=NAME), entry("bad", note="@")]))
    conflict = encoded(envelope([entry("good2", first_name=f"{NAME}2")], id="e1"))
    async with own_home.serving() as service:
        for body in (
            bad.replace(b'"@"', b'"\xff"'),
            encoded(envelope([entry("good2", first_name=NAME)], id="e1")),
            conflict,
            delivery("good3", first_name=NAME)[:-3],
        ):
            assert await service.post(body, own_home.secret) == 200
        unattributed: set[str] = set()
        for user in ("good1", "good2", "good3"):
            done = await own_home.run("erase", APP, user, "--yes", "--json")
            if user == "good3":
                assert done.code == 1, "nobody knows of them"
            else:
                unattributed |= set(msgspec.json.decode(done.out)["unattributed"])
        listed = await own_home.json("quarantine", "list")
        assert {one["id"] for one in listed if one["user_id"] is None} == unattributed
        assert len(unattributed) == 1
        assert {one["user_id"] for one in listed} == {"bad", None}
        for key in unattributed:
            assert (await own_home.run("quarantine", "purge", key, "--yes")).code == 0
        shown = [(await own_home.run("export")).out]
        shown += [(await own_home.run("quarantine", "show", one["id"])).out for one in listed]
        for user in ("good1", "good2"):
            shown += [(await own_home.run(what, APP, user)).out for what in ("user", "history")]
            shown.append(str(await service.get(f"{PATH}/{user}")))
            shown.append((await own_home.run("subject", APP, user)).out)
        shown.append(str(await service.get(f"{PATH}?limit=100")))
        assert NAME not in "".join(shown)


async def test_after_a_restore(own_home: Home, tmp_path: Path) -> None:
    """Restored to before an erasure, a list of erasures erases again, and nothing else changes."""
    backup, listed = tmp_path / "backup", tmp_path / "erasures.jsonl"
    async with own_home.serving() as service:
        for user in ("gone", "stays"):
            await service.post(delivery(user, first_name=NAME), own_home.secret)
        assert (await own_home.run("backup", str(backup))).code == 0
        await erase(service, "gone")
        done = await own_home.run("erasures", "--out", str(listed))
        assert done.code == 0, done.err
    restored = replace(own_home, folder=tmp_path / "restored")
    assert (await restored.run("restore", str(backup))).code == 0
    for name in ("master-key", "webhook-secret", "api-token"):
        shutil.copy(own_home.folder / name, restored.folder / name)
    async with restored.serving() as service:
        assert (await service.get(f"{PATH}/gone")).status == 200
        done = await restored.run("erase", "--from", str(listed), "--yes", "--reason", "restored")
        assert (done.code, done.out) == (0, "erased: 1, erased already: 0, not in this log: 0\n")
        assert (await service.get(f"{PATH}/gone")).status == 410
        stays = await service.get(f"{PATH}/stays")
        assert (stays.status, stays.body["as_of"]["position"]) == (200, "0:2")
        (erasure,) = await restored.json("erasures")
        assert erasure["reason"] == "restored; erased before at 0:3"
        status = await service.get("/v1/status")
        assert [head["position"] for head in status.body["heads"]] == ["0:3"]
        again = await restored.run("erase", "--from", str(listed), "--yes")
        assert again.out == "erased: 0, erased already: 1, not in this log: 0\n"
        assert (await restored.run("verify")).code == 0
