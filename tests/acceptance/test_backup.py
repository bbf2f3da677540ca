"""Backups are made, restored elsewhere, verified and asked, command by command as documented."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from typing import TYPE_CHECKING

from eventstore.postgres import embedded
from tests.conftest import with_database
from tests.support.database import connected
from tests.support.monitoring import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Home

APPLICATION = "000000000000000000000001"
USER_PATH = f"/v1/applications/{APPLICATION}/users/6487fc9f66a6031a8b68f523"
LAST = "min_position=0:3"
PROGRAM = (sys.executable, "-m", "api")
SECRETS = ("master-key", "webhook-secret", "api-token")
KEY, OTHER_KEY = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def _environ(url: str, key: str = KEY) -> dict[str, str]:
    return {
        "USERLOG_DATABASE_URL": url,
        "USERLOG_MASTER_KEY": key,
        "USERLOG_WEBHOOK_SECRETS": "secret",
        "USERLOG_API_TOKEN": "token",
    }


def _on(folder: Path, url: str, make_home: type[Home], key: str = KEY) -> Home:
    folder.mkdir(exist_ok=True)
    (folder / "api-token").write_text("token")
    return make_home(folder, PROGRAM, _environ(url, key))


def _tool(name: str) -> str:
    return str(embedded.psql_path().with_name(name))


async def _restore(cluster: str, name: str, dump: Path) -> str:
    """Restore a dump into a new database; return its URL."""
    async with connected(cluster) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    url = with_database(cluster, name)
    restore = ("--no-owner", "--exit-on-error", f"--dbname={url}")
    await run(_tool("pg_restore"), *restore, str(dump))
    return url


async def test_dump_and_restore(
    tmp_path: Path, make_home: type[Home], empty_database_url: str
) -> None:
    """A dump, restored into another cluster, verifies and answers; with another key it is refused.

    Without the read models it is smaller, and they are made from the log.
    """
    here = _on(tmp_path / "here", empty_database_url, make_home)
    whole, log_only = tmp_path / "whole", tmp_path / "log"
    async with here.serving() as service:
        await here.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        dump = (_tool("pg_dump"), "--format=custom", "--schema=userlog", empty_database_url)
        await run(*dump, f"--file={whole}")
        await run(*dump, f"--file={log_only}", "--exclude-table-data=userlog.*_g[0-9]*")
    assert log_only.stat().st_size < whole.stat().st_size
    async with embedded.running(tmp_path / "cluster", notice=lambda _: None) as cluster:
        async with connected(cluster) as connection:
            await connection.execute("CREATE ROLE userlog_app NOLOGIN")
            await connection.execute("GRANT userlog_app TO CURRENT_USER")
        url = await _restore(cluster, "whole", whole)
        wrong = await _on(tmp_path / "wrong", url, make_home, OTHER_KEY).run("verify")
        assert wrong.code != 0
        assert "master key" in wrong.err
        there = _on(tmp_path / "there", url, make_home)
        await _assert_whole(there, before)

        there = _on(tmp_path / "anew", await _restore(cluster, "log", log_only), make_home)
        for command in (("rebuild",), ("rebuild", "--verify-only")):
            assert (await there.run(*command, "--workers", "1")).code == 0
        await _assert_whole(there, before)


async def _assert_whole(home: Home, before: object) -> None:
    assert (await home.run("verify")).out == "verified: 3 events\n"
    async with home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body == before
        sent = await home.send(service)
        assert [one["answer"]["duplicates"] for one in sent] == [1, 1, 1]


async def test_copy_of_a_data_directory(tmp_path: Path, home: Home, make_home: type[Home]) -> None:
    """A data directory that was copied while nothing ran on it is a userlog of its own.

    Without its master key it is refused, and no new key is made for it.
    """
    async with home.serving() as service:
        await home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        assert await service.stop() == 0
    copy = tmp_path / "copy"
    await run("cp", "--archive", str(home.folder), str(copy))
    (copy / "master-key").unlink()
    refused = await make_home(copy, PROGRAM).run("verify")
    assert refused.code == 2
    assert "master-key is gone" in refused.err
    shutil.copy(home.folder / "master-key", copy)
    await _assert_whole(make_home(copy, PROGRAM), before)


async def test_copy_while_it_runs(tmp_path: Path, home: Home, make_home: type[Home]) -> None:
    """`pg_basebackup` copies the embedded database while it serves."""
    copy = tmp_path / "copy"
    copy.mkdir()
    async with home.serving() as service:
        await home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        socket = (home.folder / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        where = (f"--host={socket}", "--username=postgres", f"--pgdata={copy / 'postgres'}")
        await run(_tool("pg_basebackup"), "--checkpoint=fast", *where)
    for name in SECRETS:
        shutil.copy(home.folder / name, copy / name)
    if os.geteuid() == 0:  # as the folder was, which is not root's
        owner = f"--reference={home.folder / 'postgres'}"
        await run("chown", "--recursive", owner, str(copy / "postgres"))
    await _assert_whole(make_home(copy, PROGRAM), before)
