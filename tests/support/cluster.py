"""A throw-away PostgreSQL of the version that the tests run on, which asks for passwords."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from eventstore.postgres.embedded_account import account_for, admit, give
from tests.support.database import connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventstore.postgres.embedded_account import Account

PASSWORD = "hunter2"
BY_TLS = "by_tls"
# Who reaches the socket is let in, as an administrator on the server; others have a password. One
# user has to come by TLS, which the server does not offer.
_LETS_IN = f"""
local all all trust
hostnossl all {BY_TLS} 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
_FLEETING = ("fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1")


class Cluster(NamedTuple):
    """Where it listens: a socket for its administrator, and a port on loopback."""

    folder: Path
    port: int

    def admin(self, database: str = "postgres") -> str:
        """The superuser's URL, which needs no password."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def url(self, user: str, database: str, password: str = PASSWORD) -> str:
        """A URL as others have it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


@asynccontextmanager
async def running_cluster(url: str) -> AsyncGenerator[Cluster]:
    """Run a cluster by the programs of the server at a URL, which must be on this machine."""
    async with connected(url) as connection:
        programs = Path(
            await connection.fetchval("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        )
    if not (programs / "initdb").is_file():
        pytest.skip(f"the server's programs are not on this machine: {programs}")
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as made:
        folder = Path(made)
        account = account_for(folder, _quiet)
        give(folder, account, _quiet)
        if account is not None:
            admit(programs, account, _quiet)
        data = folder / "data"
        how = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        await _run(account, folder, programs / "initdb", f"--pgdata={data}", *how)
        (data / "pg_hba.conf").write_text(_LETS_IN, encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = (*_FLEETING, f"port={port}", f"unix_socket_directories={folder}")
        options = " ".join(f"-c {setting}" for setting in settings)
        control = (programs / "pg_ctl", f"--pgdata={data}", "--silent", "--wait")
        start = ("start", f"--log={folder / 'log'}", f"--options={options}")
        await _run(account, folder, *control, *start)
        try:
            yield Cluster(folder, port)
        finally:
            await _run(account, folder, *control, "stop", "--mode=immediate")


def _quiet(_: str) -> None:
    pass


async def _run(account: Account | None, folder: Path, *words: Path | str) -> None:
    """Run a program to its end, as the account that owns the cluster."""
    said = folder / "output"
    with said.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=folder,
            env={"LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    assert await process.wait() == 0, said.read_text(encoding="utf-8")
