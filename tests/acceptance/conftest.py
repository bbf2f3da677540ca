"""userlog as its users run it: on a server that the tests share, or on a PostgreSQL of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Home, configured

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, database_url: str) -> Home:
    """A userlog on a new database of the tests' server, with its secrets configured."""
    return Home(tmp_path / "data", configured(database_url))


@pytest.fixture
def own_home(tmp_path: Path) -> Home:
    """An empty data directory, in which userlog makes its PostgreSQL and its secrets."""
    return Home(tmp_path / "data")
