"""A pooler before the database: in session mode all works, in transaction mode it is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from api.config.settings import Settings
from api.runtime import install
from eventstore.errors import LoginError
from projections.project.projector import catch_up
from tests.support.commands import Terminal, said
from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES
from tests.support.pgbouncer import PROGRAM, pooled
from tests.support.processes import configured
from tests.support.serving import SECRETS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Stack

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


async def test_session_mode(
    empty_database_url: str,
    tmp_path: Path,
    open_stack: Callable[[str], Awaitable[Stack]],
) -> None:
    """Installed, written, projected and read through it, without any setting of the pooler."""
    async with pooled(empty_database_url, "session", tmp_path) as url:
        assert await install(url, Settings(), SECRETS)
        stack = await open_stack(url)
        for body in SAMPLES:
            await stack.ingest.deliver(body)
        assert await catch_up(stack.log, 10) == len(SAMPLES)
        assert await stack.read_model.user(stack.log.stream(APP, SAMPLE_USER))
        path = await stack.pool.fetchval("SELECT current_setting('search_path')")
        assert path == "userlog, pg_catalog, pg_temp"
        await stack.close()


async def test_transaction_mode(
    database_url: str, tmp_path: Path, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """It is refused in one line, before anything is written."""
    async with pooled(database_url, "transaction", tmp_path) as url:
        with pytest.raises(LoginError, match="transaction mode"):
            await open_stack(url)
        for command in ("status", "init"):
            done = await Terminal(configured(url)).run(command)
            assert (done.code, done.out) == (2, "")
            assert "transaction mode" in done.err
            assert len(said(done)) == 1
        done = await Terminal(configured(url)).run("doctor", "--json")
        assert done.code == 1
        (found,) = (one for one in json.loads(done.out) if "transaction mode" in one["found"])
        assert (found["about"], found["state"]) == ("database", "broken")
