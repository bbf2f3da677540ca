"""The PostgreSQL server of a run of tests, and the databases on it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.postgres import embedded, schema
from tests.support.database import connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable

    import asyncpg

# Nothing on the embedded server outlives the run, so nothing is flushed.
_FLEETING = ("fsync = off", "full_page_writes = off", "max_wal_size = '256MB'")
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has names of its own
_ROOM_BYTES = 8 << 30
_SERVICE = "userlog_test_service"
_MAKE_SERVICE = f"""
DO $$
BEGIN
    CREATE ROLE userlog_app NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
DO $$
BEGIN
    CREATE ROLE {_SERVICE} LOGIN IN ROLE userlog_app;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
"""


class Server:
    """A server whose superuser the tests are."""

    def __init__(
        self, url: str, admin: asyncpg.Connection[asyncpg.Record], *, in_memory: bool = False
    ) -> None:
        self.url = url
        self._admin = admin
        # Files in memory are copied faster than their blocks are logged.
        self._strategy = "STRATEGY file_copy" if in_memory else ""
        self._numbers = itertools.count()
        self._templates: dict[Hashable, str] = {}

    @asynccontextmanager
    async def database(self, partitions: int = 0) -> AsyncGenerator[str]:
        """Make a database with the schema for so many partitions, or an empty one; yield its URL.

        It is gone afterwards.
        """
        async with self._copy(await self._with_schema(partitions)) as url:
            yield url

    @asynccontextmanager
    async def filled(
        self, what: Hashable, fill: Callable[[str], Awaitable[None]], partitions: int = 0
    ) -> AsyncGenerator[str]:
        """Make a database as it is after `fill`, which is called once for all of a kind.

        `what` names the kind. Whoever fills leaves no connection open.
        """
        if what not in self._templates:
            name = await self._create(await self._with_schema(partitions))
            await fill(with_database(self.url, name))
            self._templates[what] = name
        async with self._copy(self._templates[what]) as url:
            yield url

    @asynccontextmanager
    async def _copy(self, template: str) -> AsyncGenerator[str]:
        name = await self._create(template)
        try:
            yield with_database(self.url, name)
        finally:
            await self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _with_schema(self, partitions: int) -> str:
        if partitions and partitions not in self._templates:
            name = await self._create()
            async with connected(with_database(self.url, name)) as connection:
                await schema.install(connection, partitions)
            self._templates[partitions] = name
        return self._templates[partitions] if partitions else ""

    async def _create(self, template: str = "") -> str:
        name = f"userlog_test_{os.getpid()}_{next(self._numbers)}"
        how = f"TEMPLATE {template} {self._strategy}" if template else ""
        await self._admin.execute(f"CREATE DATABASE {name} {how}")
        return name

    async def drop_templates(self) -> None:
        """Leave nothing behind on a server that outlives the run."""
        for name in self._templates.values():
            await self._admin.execute(f"DROP DATABASE {name}")


@asynccontextmanager
async def running_server() -> AsyncGenerator[Server]:
    """Start an embedded server, unless USERLOG_TEST_DATABASE_URL names another."""
    url = os.environ.get("USERLOG_TEST_DATABASE_URL")
    if url:
        async with connected(url) as admin:
            other = Server(url, admin)
            await admin.execute(_MAKE_SERVICE)
            yield other
            await other.drop_templates()
        return
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as folder:
        async with embedded.running(Path(folder), notice=lambda _: None) as url:  # noqa: SIM117
            async with connected(url) as admin:
                for setting in _FLEETING:
                    await admin.execute(f"ALTER SYSTEM SET {setting}")
                await admin.execute("SELECT pg_reload_conf()")
                await admin.execute(_MAKE_SERVICE)
                yield Server(url, admin, in_memory=_MEMORY in Path(folder).parents)


def use_memory() -> None:
    """Let temporary files lie in memory if there is room, unless TMPDIR says where they do.

    Half the time of a test with a data directory of its own goes into copying and flushing it.
    """
    if "TMPDIR" in os.environ or not _MEMORY.is_dir():
        return
    programs_run = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    if programs_run and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def as_service(url: str) -> str:
    """Let a URL of the tests' server log in as the service does."""
    return with_user(url, _SERVICE)


def with_user(url: str, name: str) -> str:
    """Let a URL of the tests' server log in as another user."""
    return re.sub("//[^/@]+@", f"//{name}@", url, count=1)


def with_database(url: str, name: str) -> str:
    """Point a URL at another database of the same server."""
    base, question, query = url.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}{question}{query}"
