"""`userlog erase --scrub`, on a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from api.cli.failures import FAILED
from tests.support.commands import Terminal
from tests.support.database import connected
from tests.support.deliveries import APP, delivery
from tests.support.events import BY
from tests.support.processes import configured
from tests.support.server import as_service
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Stack


@pytest.fixture
def terminal(database_url: str) -> Terminal:
    """A terminal where a userlog on a new database is configured."""
    return Terminal(configured(database_url))


async def filled(stack: Stack) -> None:
    """Record some users."""
    for n in range(3):
        await stack.ingest.deliver(delivery(f"u{n}"))


async def test_scrub(stack: Stack, terminal: Terminal) -> None:
    """All is done by an owner who may; an owner who may not gets what was not done, and why."""
    await filled(stack)
    done = await terminal.run("erase", "--scrub", "--yes")
    assert done.code == 0, done.err
    before = await stack.admin.fetchval("SELECT pg_relation_filenode('userlog.streams')")
    done = await terminal.run("erase", "--scrub", "--yes", "--json")
    assert json.loads(done.out) == {"undone": []}
    assert before != await stack.admin.fetchval("SELECT pg_relation_filenode('userlog.streams')")
    assert (await stack.ingest.deliver(delivery("u0", "update", 5))).accepted == 1


async def test_scrub_without_the_right(stack: Stack, terminal: Terminal) -> None:
    """The service's login may do nothing of it, and every step is named."""
    await filled(stack)
    there = terminal.where(USERLOG_OWNER_DATABASE_URL=as_service(stack.url))
    done = await there.run("erase", "--scrub", "--yes")
    assert done.code == FAILED
    for what in ("userlog.streams", "userlog.keys", "pg_statistic", "checkpoint", "write-ahead"):
        assert what in done.err
    assert "Traceback" not in done.err


async def test_a_table_that_is_read_for_long(
    stack: Stack, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and then named; appends are not held up for longer than one try."""
    from eventstore.postgres import vacuum  # noqa: PLC0415 - only here

    monkeypatch.setattr(vacuum, "_TRIES", 2)
    monkeypatch.setattr(vacuum, "_PAUSE_S", 0.01)
    await filled(stack)
    async with connected(stack.url) as reader, reader.transaction():
        await reader.fetch("SELECT * FROM userlog.streams")
        done = await terminal.run("erase", "--scrub", "--yes")
    assert done.code == FAILED
    assert "userlog.streams: somebody reads or writes it for long" in done.err
    assert "userlog.keys" not in done.err.partition("not done")[2]


async def test_a_transaction_from_before(
    stack: Stack, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it may still read stays in the files, so the key does, and that is said."""
    from eventstore.postgres import vacuum  # noqa: PLC0415 - only here

    monkeypatch.setattr(vacuum, "_PAUSE_S", 0.01)
    await filled(stack)
    async with connected(stack.url) as other, other.transaction(isolation="repeatable_read"):
        await other.fetch("SELECT 1")
        await stack.log.erase(stack.log.stream(APP, "u1"), BY)
        done = await terminal.run("erase", "--scrub", "--yes")
    assert done.code == FAILED
    assert "userlog.streams: 2 old versions of rows stay" in done.err

    async def is_done() -> bool:  # the server's own ANALYZE may look just then
        return (await terminal.run("erase", "--scrub", "--yes")).code == 0

    await until(is_done)
