"""What PostgreSQL says of its disk is understood, and the log is not ready meanwhile.

A disk that is really full is in tests/acceptance/test_disk_full.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.errors import DiskError, RightsError, as_unavailable, explained
from tests.support.database import connected
from tests.support.limits import limit_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Stack

_RAISE = "DO $$ BEGIN RAISE EXCEPTION 'about grace@example.com' USING ERRCODE = '{}'; END $$"
_FILL = "INSERT INTO userlog.filled SELECT repeat('x', 1000) FROM generate_series(1, 2000)"


@contextlib.contextmanager
def closed(path: Path) -> Iterator[None]:
    """Let nobody but root use a file for as long as the block lasts."""
    if not path.exists():
        pytest.skip("the server's files are elsewhere")
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(0o600)


@pytest.mark.parametrize(
    ("code", "words"), [("53100", "no space left on the database's disk"), ("58030", "disk fails")]
)
async def test_errors_of_the_disk(stack: Stack, code: str, words: str) -> None:
    """A full disk and one that fails pass by themselves, and nothing is quoted."""
    with pytest.raises(asyncpg.PostgresError) as raised:
        await stack.admin.execute(_RAISE.format(code))
    found = as_unavailable(raised.value)
    assert isinstance(found, DiskError)
    assert words in str(found)
    assert "grace" not in str(found)


async def test_a_limit_of_file_sizes(stack: Stack) -> None:
    """PostgreSQL calls a file that may not grow an internal error."""
    async with stack.admin.acquire() as connection:
        await connection.execute("CREATE TABLE userlog.filled (x text)")
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        limit_files(pid, 1 << 20)
        with pytest.raises(asyncpg.InternalServerError) as raised:
            await connection.execute(_FILL)
        limit_files(pid, "unlimited")
        await connection.execute(_FILL)
    assert isinstance(as_unavailable(raised.value), DiskError)


async def test_a_file_that_may_not_be_used(stack: Stack) -> None:
    """PostgreSQL calls it a missing right, as on a disk that has become read-only."""
    async with connected(stack.url) as connection:
        await connection.execute("CREATE TABLE userlog.filled (x text)")
        where = "current_setting('data_directory') || '/' || pg_relation_filepath('userlog.filled')"
        path = Path(await connection.fetchval(f"SELECT {where}"))
    with closed(path):
        async with connected(stack.url) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
                await connection.execute(_FILL)
    assert isinstance(as_unavailable(raised.value), DiskError)
    assert isinstance(explained(raised.value), DiskError)


@pytest.mark.parametrize("code", ["XX000", "42501"])
async def test_other_internal_errors(stack: Stack, code: str) -> None:
    """The same codes from elsewhere are no matter of the disk."""
    with pytest.raises(asyncpg.PostgresError) as raised:
        await stack.admin.execute(_RAISE.format(code))
    assert as_unavailable(raised.value) is None
    assert isinstance(explained(raised.value), RightsError | None)
