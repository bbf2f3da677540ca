"""Backups are made, restored elsewhere, verified and asked, command by command as documented."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from eventstore.postgres import embedded
from tests.support.database import connected
from tests.support.deliveries import APP, SAMPLE_USER
from tests.support.monitoring import run
from tests.support.processes import configured
from tests.support.server import with_database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Home

USER_PATH = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
LAST = "min_position=0:3"
SECRETS = ("master-key", "webhook-secret", "api-token")
OTHER_KEY = b"another master key of just 32 b."


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


async def test_dump_and_restore(tmp_path: Path, home: Home, database_url: str) -> None:
    """A dump, restored into another cluster, verifies and answers; with another key it is refused.

    Without the read models it is smaller, and they are made from the log.
    """
    whole, log_only = tmp_path / "whole", tmp_path / "log"
    async with home.serving() as service:
        await home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        dump = (_tool("pg_dump"), "--format=custom", "--schema=userlog", database_url)
        await run(*dump, f"--file={whole}")
        await run(*dump, f"--file={log_only}", "--exclude-table-data=userlog.*_g[0-9]*")
    assert log_only.stat().st_size < whole.stat().st_size
    async with embedded.running(tmp_path / "cluster", notice=lambda _: None) as cluster:
        async with connected(cluster) as connection:
            await connection.execute("CREATE ROLE userlog_app NOLOGIN")
        url = await _restore(cluster, "whole", whole)
        wrong = await home.where(**configured(url, OTHER_KEY)).run("verify")
        assert wrong.code != 0
        assert "master key" in wrong.err
        await _assert_whole(home.where(**configured(url)), before)

        there = home.where(**configured(await _restore(cluster, "log", log_only)))
        for command in (("rebuild",), ("rebuild", "--verify-only")):
            assert (await there.run(*command, "--workers", "1")).code == 0
        await _assert_whole(there, before)


async def _assert_whole(home: Home, before: object) -> None:
    assert (await home.run("verify")).out == "verified: 3 events\n"
    async with home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body == before
        sent = await home.send(service)
        assert [one["answer"]["duplicates"] for one in sent] == [1, 1, 1]


async def test_copy_of_a_data_directory(tmp_path: Path, made_home: Home) -> None:
    """A data directory that was copied while nothing ran on it is a userlog of its own.

    Without its master key it is refused, and no new key is made for it.
    """
    async with made_home.serving() as service:
        await made_home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        assert await service.stop() == 0
    copy = tmp_path / "copy"
    await run("cp", "--archive", str(made_home.folder), str(copy))
    (copy / "master-key").unlink()
    there = replace(made_home, folder=copy)
    refused = await there.run("verify")
    assert refused.code == 2
    assert "master-key is gone" in refused.err
    shutil.copy(made_home.folder / "master-key", copy)
    await _assert_whole(there, before)


async def test_copy_while_it_runs(tmp_path: Path, made_home: Home) -> None:
    """`pg_basebackup` copies the embedded database while it serves."""
    copy = tmp_path / "copy"
    copy.mkdir()
    async with made_home.serving() as service:
        await made_home.send(service)
        before = (await service.get(f"{USER_PATH}?{LAST}")).body
        socket = (made_home.folder / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        where = (f"--host={socket}", "--username=postgres", f"--pgdata={copy / 'postgres'}")
        await run(_tool("pg_basebackup"), "--checkpoint=fast", *where)
    for name in SECRETS:
        shutil.copy(made_home.folder / name, copy / name)
    if os.geteuid() == 0:  # as the folder was, which is not root's
        owner = f"--reference={made_home.folder / 'postgres'}"
        await run("chown", "--recursive", owner, str(copy / "postgres"))
    await _assert_whole(replace(made_home, folder=copy), before)
