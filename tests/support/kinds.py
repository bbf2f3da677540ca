"""The kinds of databases that people have: who owns them, what they hold and are set to.

The statements about roles are those that docs/operations.md tells an administrator to run.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from tests.support.cluster import PASSWORD
from tests.support.pgbouncer import pooled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from tests.support.cluster import Cluster

# As the documentation names them.
_DATABASE, _OWNER, _SERVICE = "userlog", "userlog_owner", "userlog_service"
_MANUAL = Path(__file__).parents[2] / "docs/operations.md"
SUPERUSER = "Where you are a superuser"
HOSTED = "On a hosted database, as a user with CREATEROLE"
NO_ROLES = "Where the owner may create no role"
APART = "Several userlogs on one server"


class Kind(NamedTuple):
    """A kind of database.

    `before` and `after` are sections of the documentation: what an administrator runs before
    userlog is installed, and its owner afterwards. Without any, the service has no login. The
    `settings` are those of the database, or of its users.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    owner: str = ""
    encoding: str = "UTF8"
    settings: Mapping[str, str] = {}
    set_for_users: bool = False
    pool_mode: str = ""


class Database(NamedTuple):
    """A database of a kind: URLs of its owner and of the service, which may be the same."""

    kind: Kind
    owner: str
    service: str
    unpooled: str

    async def let_service_in(self) -> None:
        """Do what the owner has to do after userlog was installed."""
        await _run_sections(self.unpooled, self.kind.after)


@asynccontextmanager
async def database(cluster: Cluster, kind: Kind, folder: Path) -> AsyncGenerator[Database]:
    """Make a database and roles of a kind; nothing is left of them afterwards."""
    admin = cluster.admin()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_remove, admin)
        if SUPERUSER not in kind.before:
            await _run(admin, f"CREATE ROLE {_OWNER} LOGIN {kind.owner} PASSWORD '{PASSWORD}'")
            how = f"ENCODING '{kind.encoding}' LOCALE 'C' TEMPLATE template0"
            whose = "" if NO_ROLES in kind.before else f"OWNER {_OWNER}"
            await _run(admin, f"CREATE DATABASE {_DATABASE} {whose} {how}")
        await _run_sections(admin, kind.before)
        roles = (f"ROLE {_OWNER}", f"ROLE {_SERVICE}")
        for what in roles if kind.set_for_users else (f"DATABASE {_DATABASE}",):
            for setting, value in kind.settings.items():
                await _run(admin, f"ALTER {what} SET {setting} = '{value}'")
        unpooled = url = cluster.url(_OWNER, _DATABASE)
        if kind.pool_mode:
            users = (_OWNER, _SERVICE)
            by_socket = cluster.admin(_DATABASE)
            pooler = pooled(by_socket, kind.pool_mode, folder, users, PASSWORD)
            through = await stack.enter_async_context(pooler)
            url = through.replace("//postgres@", f"//{_OWNER}:{PASSWORD}@", 1)
        has_login = kind.before or kind.after
        service = url.replace(f"//{_OWNER}:", f"//{_SERVICE}:", 1) if has_login else url
        yield Database(kind, url, service, unpooled)


async def _remove(admin: str) -> None:
    await _run(admin, f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
    # Whom was granted what, before who granted it.
    for role in (_SERVICE, "userlog_app", _OWNER):
        await _run(admin, f"DROP ROLE IF EXISTS {role}")


async def _run_sections(url: str, sections: tuple[str, ...]) -> None:
    text = _MANUAL.read_text(encoding="utf-8")
    for section in sections:
        (block,) = re.findall(rf"### {section}\n(?:(?!###).)*?```sql\n(.*?)```", text, re.DOTALL)
        text_of = block.replace("'…'", f"'{PASSWORD}'")
        for statement in text_of.strip().removesuffix(";").split(";\n"):
            await _run(url, statement)


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
