"""Settings that can't work: one line, exit code 2, and no secret in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MASTER_KEY
from tests.support import kinds
from tests.support.cluster import BY_TLS
from tests.support.commands import Terminal, said
from tests.support.kinds import NO_ROLES, Kind
from tests.support.processes import Home
from tests.support.urls import PASSWORD, WRONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.kinds import Database
    from tests.support.nursery import Nursery
    from tests.support.processes import Finished

URL = f"postgresql://u:{PASSWORD}@host/db"
OWNER = "USERLOG_OWNER_DATABASE_URL"
# Each secret has the password in it.
GIVEN = {
    "USERLOG_DATABASE_URL": URL,
    "USERLOG_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
    "USERLOG_WEBHOOK_SECRETS": f"{PASSWORD}-of-the-platform,{PASSWORD}-before-that",
    "USERLOG_API_TOKEN": f"{PASSWORD}-for-everything",
}
COMMANDS = ("status", "serve")


def assert_refused(done: Finished, *secrets: str, words: str = "") -> None:
    """Check that there is one line on standard error, with these words and without secrets."""
    assert (done.code, done.out) == (2, "")
    (line,) = said(done)
    assert line.startswith("userlog: ")
    assert words in line
    for secret in (PASSWORD, GIVEN["USERLOG_MASTER_KEY"], *secrets):
        assert secret not in done.err


@pytest.mark.parametrize(("url", "words"), WRONG.values(), ids=WRONG)
async def test_urls(url: str, words: list[str]) -> None:
    """Of the service or of the owner: the variable and each mistake are named."""
    secrets = [url.strip()] if PASSWORD in url else []
    for name, command in (("USERLOG_DATABASE_URL", "serve"), (OWNER, "status")):
        done = await Terminal({**GIVEN, name: url}).run(command)
        assert_refused(done, *secrets, words=f"{name}: ")
        assert all(word in done.err for word in words)


SETTINGS = {
    "port": {"USERLOG_PORT": "http"},
    "large-port": {"USERLOG_PORT": "65536"},
    "workers": {"USERLOG_WORKERS": "0"},
    "level": {"USERLOG_LOG_LEVEL": "loud"},
    "connections": {"USERLOG_POOL_CONNECTIONS_MAX": "1"},
    "seconds": {"USERLOG_DATABASE_TIMEOUT_S": "10s"},
    "key": {"USERLOG_MASTER_KEY": PASSWORD},
    "short-key": {"USERLOG_MASTER_KEY": base64.b64encode(PASSWORD.encode()).decode()},
    "former-key": {"USERLOG_PREVIOUS_MASTER_KEY": PASSWORD},
    "weak-key": {"USERLOG_MASTER_KEY": base64.b64encode(bytes(32)).decode()},
    "weak-secret": {"USERLOG_WEBHOOK_SECRETS": f"the-platform-has-a-good-one,{PASSWORD}"},
    "weak-token": {"USERLOG_API_TOKEN": PASSWORD},
    "no-webhook-secret": {"USERLOG_WEBHOOK_SECRETS": " , "},
    "key-from-nowhere": {"USERLOG_MASTER_KEY": "", "USERLOG_MASTER_KEY_FILE": "/not-there"},
    "token-from-a-folder": {"USERLOG_API_TOKEN": "", "USERLOG_API_TOKEN_FILE": "/"},
    "empty-file": {"USERLOG_DATABASE_URL": "", "USERLOG_DATABASE_URL_FILE": "/dev/null"},
    "no-key": {"USERLOG_MASTER_KEY": ""},
    "no-secret": {"USERLOG_WEBHOOK_SECRETS": ""},
    "owner-alone": {"USERLOG_DATABASE_URL": "", OWNER: URL},
}


@pytest.mark.parametrize("given", SETTINGS.values(), ids=SETTINGS)
async def test_settings(given: dict[str, str], tmp_path: Path) -> None:
    """The setting is named."""
    environ = {**GIVEN, "USERLOG_DATA_DIR": str(tmp_path / "data"), **given}
    for command in COMMANDS:
        assert_refused(await Terminal(environ).run(command), URL, words=list(given)[-1])


@pytest.fixture
async def database(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Database]:
    """A database with roles, and nothing else."""
    async with kinds.database(cluster, Kind(before=(NO_ROLES,)), tmp_path) as made:
        yield made


async def test_what_the_server_refuses(
    database: Database, cluster: Cluster, tmp_path: Path, nursery: Nursery
) -> None:
    """A password, a user, a database, TLS on either side, and a database without userlog."""
    url = cluster.url("userlog_service", "userlog")
    urls = {
        cluster.url("userlog_service", "userlog", f"{PASSWORD}!"): "refuses the login",
        cluster.url("nobody", "userlog"): "refuses the login",
        cluster.url(BY_TLS, "userlog"): "refuses the login",
        cluster.url("userlog_service", "not_there"): "no database of the name",
        f"{url}?sslmode=require": "does not offer TLS",
        f"{url}?sslmode=verify-full&sslrootcert=/not-there": "can't be read",
        f"{url}?options=-c%20colour%3Dred": "can't be used",
        url: "has no userlog in it",
    }
    for wrong, words in urls.items():
        home = Home(tmp_path / "data", {**GIVEN, "USERLOG_DATABASE_URL": wrong}, nursery=nursery)
        assert_refused(await Terminal(dict(home.environ)).run("status"), wrong, words=words)
        assert_refused(await home.run("serve", "--port", "0"), wrong, words=words)
    wrong = next(iter(urls))
    owner = Terminal({**GIVEN, "USERLOG_DATABASE_URL": url, OWNER: wrong})
    assert_refused(await owner.run("init"), wrong, words="refuses the login")


async def test_an_owner_elsewhere(database: Database, database_url: str) -> None:
    """What the owner works on is looked at, not what the service does."""
    environ = {**GIVEN, "USERLOG_DATABASE_URL": database_url, OWNER: database.owner}
    for command in (
        ("rebuild", "--drop"),
        ("rotate-master-key",),
        ("token", "create", "--name", "x"),
    ):
        done = await Terminal(environ).run(*command)
        assert_refused(done, database.owner, words="the database userlog has no userlog in it")


async def test_several_processes_say_it_once(
    cluster: Cluster, tmp_path: Path, nursery: Nursery
) -> None:
    """The supervisor says why no worker can work, and what each would say is not said again."""
    wrong = cluster.url("nobody", "userlog")
    home = Home(tmp_path / "data", {**GIVEN, "USERLOG_DATABASE_URL": wrong}, nursery=nursery)
    done = await home.run("serve", "--port", "0", "--workers", "2")
    assert_refused(done, wrong, words="refuses the login")
