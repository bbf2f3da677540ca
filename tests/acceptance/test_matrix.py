"""userlog on each kind of database that people have: `make test-matrix` tries all of them.

The usual tests try a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import kinds
from tests.support.commands import Terminal, said
from tests.support.journey import EVENTS, EVENTS_AGAIN, Journey
from tests.support.kinds import APART, HOSTED, NO_ROLES, SUPERUSER, Kind
from tests.support.pgbouncer import PROGRAM
from tests.support.processes import Home, configured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.kinds import Database
    from tests.support.nursery import Nursery

AS_OWNER = "the service logs in as the owner of the schema"
SERIALIZABLE = {"default_transaction_isolation": "serializable"}
ODD = {"timezone": "Asia/Kolkata", "datestyle": "German", "intervalstyle": "sql_standard"}


class Cell(NamedTuple):
    """A kind of database, how it is served there, and how often it is started again."""

    kind: Kind
    serve: tuple[str, ...] = ()
    again: int = 0


CELLS = {
    "superuser": Cell(Kind(after=(HOSTED,), owner="SUPERUSER")),
    "superuser-prepares": Cell(Kind(before=(SUPERUSER,))),
    "no-roles": Cell(Kind(before=(NO_ROLES, APART))),
    "createrole": Cell(Kind(after=(HOSTED,), owner="CREATEROLE")),
    "one-url": Cell(Kind(owner="CREATEROLE")),
    "one-url-superuser": Cell(Kind(owner="SUPERUSER")),
    "sql-ascii": Cell(Kind(before=(NO_ROLES,), encoding="SQL_ASCII")),
    "serializable": Cell(
        Kind(before=(NO_ROLES,), settings=SERIALIZABLE), ("--workers", "3"), again=9
    ),
    "kolkata-german": Cell(Kind(before=(NO_ROLES,), settings=ODD, set_for_users=True)),
    "pgbouncer-session": Cell(Kind(before=(NO_ROLES,), pool_mode="session")),
    "all-at-once": Cell(
        Kind(before=(NO_ROLES, APART), encoding="SQL_ASCII", settings=SERIALIZABLE | ODD),
        ("--workers", "3"),
    ),
}
SHORT = {"all-at-once"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try all kinds of databases, or a few."""
    if "cell" in metafunc.fixturenames:
        whole = metafunc.config.getoption("matrix")
        chosen = {name: cell for name, cell in CELLS.items() if whole or name in SHORT}
        metafunc.parametrize("cell", chosen.values(), ids=chosen)


@pytest.fixture
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether all is tried."""
    given: bool = pytestconfig.getoption("matrix")
    return given


@pytest.fixture
def users(tmp_path: Path, nursery: Nursery, whole: bool) -> Callable[[Database], Journey]:
    """The service's login and the owner's, as the documentation has them.

    All commands start by themselves in the whole form, and are forked in the short one.
    """

    def of(database: Database) -> Journey:
        log_in = configured(database.service)
        service = Home(tmp_path / "data", log_in, nursery=None if whole else nursery)
        if database.owner == database.service:
            return Journey(service, service)
        return Journey(service, service.where(USERLOG_OWNER_DATABASE_URL=database.owner))

    return of


@pytest.mark.timeout(600)
async def test_all_works(
    cell: Cell,
    cluster: Cluster,
    tmp_path: Path,
    users: Callable[[Database], Journey],
    whole: bool,
) -> None:
    """Installed, served, asked, erased from, rebuilt, verified, and wrapped with another key."""
    again = cell.again if whole else 0
    async with kinds.database(cluster, cell.kind, tmp_path) as database:
        journey = users(database)._replace(serve=cell.serve)
        await journey.install()
        await database.let_service_in()
        await journey.use()
        for number in range(again):
            await journey.serve_briefly(number)
        await journey.verify_and_rotate(EVENTS + EVENTS_AGAIN * again)
    as_owner = journey.service is journey.owner
    assert [AS_OWNER in line for line in journey.service.warnings()] == [True] * as_owner


async def test_a_hosted_database(
    cluster: Cluster, tmp_path: Path, users: Callable[[Database], Journey]
) -> None:
    """An owner who may create roles makes all that the service needs, and it works and stops."""
    async with kinds.database(cluster, CELLS["createrole"].kind, tmp_path) as database:
        journey = users(database)
        await journey.install()
        await database.let_service_in()
        await journey.serve_briefly(0)
    assert journey.service.warnings() == []


async def test_a_role_that_nobody_has_made(
    cluster: Cluster, tmp_path: Path, users: Callable[[Database], Journey]
) -> None:
    """An owner who may create none is told in a line to have it made, and nothing is left."""
    async with kinds.database(cluster, Kind(), tmp_path) as database:
        terminal = Terminal(dict(users(database).owner.environ))
        done = await terminal.run("init")
        (line,) = said(done)
        assert (done.code, done.out) == (1, "")
        assert "the role userlog_app unless an administrator has created it" in line
        assert "has no userlog in it" in (await terminal.run("status")).err


async def test_latin1(
    cluster: Cluster, tmp_path: Path, users: Callable[[Database], Journey]
) -> None:
    """It is refused in a line, which says what to do."""
    kind = Kind(before=(NO_ROLES,), encoding="LATIN1")
    async with kinds.database(cluster, kind, tmp_path) as database:
        done = await users(database).owner.run("init")
    (line,) = said(done)
    assert (done.code, done.out) == (1, "")
    assert "LATIN1" in line
    assert "ENCODING 'UTF8'" in line


async def test_a_pooler_in_transaction_mode(
    cluster: Cluster, tmp_path: Path, users: Callable[[Database], Journey], whole: bool
) -> None:
    """It is refused in a line by whatever is run there."""
    if PROGRAM is None and not whole:
        pytest.skip("pgbouncer is not installed")
    plain = Kind(before=(NO_ROLES,), pool_mode="transaction")
    async with kinds.database(cluster, plain, tmp_path) as database:
        journey = users(database)
        owner, service = (Terminal(dict(home.environ)) for home in (journey.owner, journey.service))
        past = owner.where(USERLOG_OWNER_DATABASE_URL=database.unpooled)
        assert (await past.run("init")).code == 0
        for command, done in (
            ("init", await owner.run("init")),
            ("rebuild", await owner.run("rebuild")),
            ("status", await service.run("status")),
            ("serve", await journey.service.run("serve", "--port", "0")),
        ):
            (line,) = said(done)
            assert (done.code, done.out) == (2, ""), command
            assert "transaction mode" in line
