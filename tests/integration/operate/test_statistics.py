"""Statistics of PostgreSQL hold no key and nothing that is sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.project.projector import catch_up
from projections.rebuild.log_source import LogSource
from projections.rebuild.rebuild import Plan, rebuild
from projections.upgrade import Watcher, upgrade_schema
from tests.conftest import MASTER_KEY
from tests.support.database import connected
from tests.support.deliveries import delivery
from tests.support.older import fill, install

if TYPE_CHECKING:
    from tests.conftest import Stack

_KEPT = """
SELECT DISTINCT a.attname FROM pg_statistic s
JOIN pg_class c ON c.oid = s.starelid AND c.relnamespace = 'userlog'::regnamespace
JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
"""
SECRET = {"data_key", "wrapped", "payload", "body", "sealed", "tie_break", "terms", "former"}


async def kept(url: str) -> set[str]:
    """Return of which columns PostgreSQL keeps statistics, after it has looked at all tables."""
    async with connected(url) as admin:
        await admin.execute("ANALYZE")
        return {row["attname"] for row in await admin.fetch(_KEPT)}


async def test_none_of_keys_and_what_is_sealed(stack: Stack) -> None:
    """Neither of the first generation nor of one that a rebuild has made."""
    for n in range(5):
        await stack.ingest.deliver(delivery(f"u{n}", first_name=f"{n}"))
        await stack.quarantine.put(b"%d" % n, "not-json", "")
    await catch_up(stack.log, 100)
    found = await kept(stack.url)
    assert "stream_id" in found
    assert not found & SECRET
    await rebuild(stack.source, Plan(workers=1))
    found = await kept(stack.url)
    assert "lifecycle" in found
    assert not found & SECRET


async def test_an_upgrade_removes_what_was_there(empty_database_url: str) -> None:
    """What ANALYZE had left of version 4 is gone with the upgrade, in every table."""
    url = empty_database_url
    await install(url, 4, 1)
    await fill(url, 4)
    before = await kept(url)
    assert {"data_key", "payload", "body"} <= before
    async with connected(url) as admin:
        await upgrade_schema(LogSource(url, MASTER_KEY, None, 30), 1, Watcher())
        left = {row["attname"] for row in await admin.fetch(_KEPT)}
    assert not left & SECRET
