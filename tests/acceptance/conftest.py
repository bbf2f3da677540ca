"""userlog as its users run it: on a server that the tests share, or on a PostgreSQL of its own."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import running_cluster
from tests.support.processes import Home, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.cluster import Cluster
    from tests.support.nursery import Nursery
    from tests.support.server import Server


@pytest.fixture(scope="session")
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    """A server of the same version that asks for passwords, with no roles of anybody's."""
    async with running_cluster(server.url) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, database_url: str, nursery: Nursery) -> Home:
    """A userlog on a new database of the tests' server, with its secrets configured."""
    return Home(tmp_path / "data", configured(database_url), nursery=nursery)


@pytest.fixture
def own_home(tmp_path: Path) -> Home:
    """An empty data directory, in which userlog makes its PostgreSQL and its secrets."""
    return Home(tmp_path / "data")


@pytest.fixture(scope="session")
async def initialized() -> AsyncIterator[Path]:
    """A data directory in which `userlog init` was run, only to be copied."""
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as folder:
        made = Home(Path(folder) / "data")
        done = await made.run("init")
        assert done.code == 0, done.err
        yield made.folder


@pytest.fixture
def made_home(tmp_path: Path, initialized: Path, nursery: Nursery) -> Home:
    """A data directory with secrets and a PostgreSQL of its own, in which nothing was recorded."""
    subprocess.run(["/bin/cp", "-a", initialized, tmp_path / "data"], check=True)
    return Home(tmp_path / "data", nursery=nursery)
