"""A pooler between the code and PostgreSQL: Debian's pgbouncer."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
_INI = """
[databases]
* = host={host} port={port} {login}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listening}
unix_socket_dir =
auth_type = {auth}
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = 20
logfile = {folder}/log
pidfile = {folder}/pid
"""


@asynccontextmanager
async def pooled(
    url: str, mode: str, folder: Path, users: Iterable[str] = (), password: str = ""
) -> AsyncGenerator[str]:
    """Run a pooler before the database of a URL; yield the URL through it, as `postgres`.

    With users it asks for their password, and logs in to the server as who it was asked by.
    """
    assert PROGRAM
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "localhost"])[0]
    port = query.get("port", ["5432"])[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        listening = free.getsockname()[1]
    ini = folder / "pgbouncer.ini"
    logins = folder / "users"
    logins.write_text("".join(f'"{user}" "{password}"\n' for user in users), encoding="utf-8")
    auth, login = ("scram-sha-256", "") if password else ("any", "user=postgres")
    about = {"host": host, "port": port, "login": login, "listening": listening, "auth": auth}
    ini.write_text(_INI.format(**about, mode=mode, folder=folder), encoding="utf-8")
    # It does not run as root, and must pass into the folder of the socket.
    account = _owner(host)
    if account:
        for path in (folder, ini, logins):
            os.chown(path, *account)
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        str(ini),
        user=account[0] if account else None,
        group=account[1] if account else None,
        extra_groups=[] if account else None,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def listens() -> bool:
        assert process.returncode is None, (folder / "log").read_text(encoding="utf-8")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", listening)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    try:
        await until(listens)
        yield f"postgresql://postgres@127.0.0.1:{listening}{parts.path}"
    finally:
        process.terminate()
        await process.wait()


def _owner(host: str) -> tuple[int, int] | None:
    """Return whose a socket's folder is, for root to become."""
    if os.geteuid() != 0 or not host.startswith("/"):
        return None
    found = Path(host).stat()
    return found.st_uid, found.st_gid
