"""userlog as its users run it: on a server that the tests share, or on a PostgreSQL of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Home, configured

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of the test's own, as always, but not in pytest's.

    Every run of pytest closes that one to other accounts, while PostgreSQL's has to pass through.
    """
    with tempfile.TemporaryDirectory(prefix="userlog-test-") as folder:
        yield Path(folder).resolve()


@pytest.fixture
def home(tmp_path: Path, database_url: str) -> Home:
    """A userlog on a new database of the tests' server, with its secrets configured."""
    return Home(tmp_path / "data", configured(database_url))


@pytest.fixture
def own_home(tmp_path: Path) -> Home:
    """An empty data directory, in which userlog makes its PostgreSQL and its secrets."""
    return Home(tmp_path / "data")
