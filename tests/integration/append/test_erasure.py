"""Erasure: what is gone, what stays, and what never comes back."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from api.export_import import export_lines
from eventstore.events import Position
from eventstore.postgres.embedded import psql_path
from eventstore.verify.whole import verify
from projections.project.projector import catch_up
from tests.support.deliveries import delivery
from tests.support.events import BY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack

APP = "channel-1"
PHONE, EMAIL = "5550001234", "somebody.special@example.org"


def named(user_id: str, name: str, kind: str = "update", at_ms: int = 0) -> bytes:
    """Make a delivery that holds a phone and an e-mail."""
    contacts: dict[str, Any] = {
        "phone_numbers": [{"phone": PHONE, "country_code": 91}],
        "emails": [{"email": EMAIL, "primary": True}],
    }
    return delivery(user_id, kind, at_ms, application_id=APP, first_name=name, **contacts)


async def rows(stack: Stack, table: str) -> list[Any]:
    """Return a table's rows."""
    found = await stack.pool.fetch(f"SELECT * FROM userlog.{table} ORDER BY position")
    return [tuple(row) for row in found]


async def test_an_erased_user_is_gone_everywhere_but_in_the_log(stack: Stack) -> None:
    """Key and rows are destroyed, the sealed events stay as they are, and verify passes."""
    await stack.ingest.deliver(named("1", "First"))
    await stack.ingest.deliver(named("1", "Second", at_ms=1))
    await stack.ingest.deliver(named("2", "Other"))
    await catch_up(stack.log, 100)
    before = await rows(stack, "events")
    stream = stack.log.stream(APP, "1")

    erased = await stack.log.erase(stream, BY)

    assert erased.position == Position(0, 4)
    assert (await rows(stack, "events"))[:3] == before
    assert await stack.read_model.user(stream) is None
    left = await stack.pool.fetch("SELECT DISTINCT stream_id FROM userlog.history")
    assert [row["stream_id"] for row in left] == [stack.log.stream(APP, "2").stream_id]
    assert await stack.log.is_erased(stream)
    assert await verify(stack.log, notes=[], progress=lambda *_: None) == []
    again = await stack.log.erase(stream, BY)
    assert (again.position, again.erased_at) == (None, erased.erased_at)


async def test_a_generation_that_is_half_removed_holds_nothing_either(stack: Stack) -> None:
    """Rows are destroyed also in tables that no projector knows of any more."""
    await stack.ingest.deliver(named("1", "First"))
    await catch_up(stack.log, 100)
    tables = ("users", "history", "terms")
    for table in tables:
        await stack.admin.execute(
            f"CREATE TABLE userlog.{table}_g7 PARTITION OF userlog.{table} FOR VALUES IN (7);"
            f"CREATE TEMPORARY TABLE copied AS SELECT * FROM userlog.{table};"
            "UPDATE copied SET generation = 7;"
            f"INSERT INTO userlog.{table} SELECT * FROM copied; DROP TABLE copied"
        )
        assert await stack.admin.fetchval(f"SELECT count(*) FROM userlog.{table}_g7")

    await stack.log.erase(stack.log.stream(APP, "1"), BY)

    for table in tables:
        assert not await stack.admin.fetchval(f"SELECT count(*) FROM userlog.{table}")


async def test_what_arrives_later_brings_nothing_back(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """It is acknowledged and recorded without payload, even by a process that knew the key."""
    other = await open_stack(stack.url)
    await other.ingest.deliver(named("1", "First"))
    await stack.log.erase(stack.log.stream(APP, "1"), BY)
    for process in (other, stack, other):
        receipt = await process.ingest.deliver(named("1", "Back", at_ms=1))
        assert receipt.positions == ["0:3"]
    await catch_up(stack.log, 100)
    assert await stack.read_model.user(stack.log.stream(APP, "1")) is None
    payloads = [row["payload"] for row in await stack.pool.fetch("SELECT * FROM userlog.events")]
    assert sum(1 for payload in payloads if payload == b"") == 2


@pytest.mark.parametrize("batch", [1, 100])
async def test_a_projector_that_lags_brings_nothing_back(stack: Stack, batch: int) -> None:
    """Events from before the erasure, projected only after it, leave no row behind."""
    await stack.ingest.deliver(named("1", "First"))
    await stack.ingest.deliver(named("2", "Other"))
    await stack.log.erase(stack.log.stream(APP, "1"), BY)
    await catch_up(stack.log, batch)
    assert [row[0] for row in await stack.pool.fetch("SELECT user_id FROM userlog.users")] == ["2"]


async def test_an_export_holds_nothing_readable_of_an_erased_user(stack: Stack) -> None:
    """Of an erased user's events an export has only when and what kind they were."""
    await stack.ingest.deliver(named("1", "First"))
    await stack.log.erase(stack.log.stream(APP, "1"), BY)
    lines = [line async for line in export_lines(stack.log, stack.quarantine, {})]
    assert [json.loads(line)["userlog"]["event"] for line in lines] == [
        "user.updated",
        "user.erased",
    ]
    text = b"\n".join(lines).decode()
    assert not any(word in text for word in ("First", PHONE, EMAIL))


async def test_a_dump_of_the_database_holds_nothing_of_an_erased_user(stack: Stack) -> None:
    """What opens a user's rows is in a dump before, and not after: neither key nor rows."""
    stream = stack.log.stream(APP, "1")
    await stack.ingest.deliver(named("1", "First"))
    await catch_up(stack.log, 100)
    (row,) = await stack.pool.fetch(
        "SELECT s.data_key, u.sealed FROM userlog.users u JOIN userlog.streams s USING (stream_id)"
        " WHERE stream_id = $1",
        stream.stream_id,
    )
    key, sealed = row
    assert all(secret.hex() in dump(stack.url) for secret in (key, sealed))
    await stack.log.erase(stream, BY)
    found = dump(stack.url)
    assert not any(secret.hex() in found for secret in (key, sealed))
    assert not any(word in found for word in (PHONE, EMAIL, "First"))


def dump(url: str) -> str:
    """Dump a database with the wheel's pg_dump, which reads servers of every version here."""
    command = [str(psql_path().with_name("pg_dump")), "--inserts", url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
