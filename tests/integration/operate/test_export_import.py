"""Export and import: the way to another database, or to another number of partitions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from api.export_import import Importer, chunks, export_lines
from eventstore.postgres import schema
from eventstore.postgres.pool import open_owner_pool
from eventstore.verify.whole import verify
from projections.fold.events import TIE_BREAK_BYTES
from projections.project.projector import catch_up
from projections.query.users import Page, parse_page_key
from tests.support.database import assert_log_holds
from tests.support.deliveries import APP, encoded, entry, envelope
from tests.support.events import BY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack


def pretty(user: int, number: int, kind: str = "update") -> bytes:
    """Make a pretty-printed delivery, half of them with a provider's id."""
    event_id = f"event-{number}" if number % 2 else None
    users = [entry(f"u{user}", application_id=f"a{user % 3}", n=number)]
    return json.dumps(envelope(users, kind, number * 37 % 101, id=event_id), indent=1).encode()


async def fill(stack: Stack) -> None:
    """Users with histories, some erased, one of them with an event afterwards, and a quarantine."""
    for number in range(60):
        await stack.ingest.deliver(pretty(number % 9, number))
    for user in (3, 4):
        await stack.log.erase(stack.log.stream(f"a{user % 3}", f"u{user}"), BY)
    await stack.ingest.deliver(pretty(4, 100))
    await stack.ingest.deliver(pretty(5, 101, kind="delete"))
    await stack.ingest.deliver(b'{"broken": ')


async def exported(stack: Stack) -> list[bytes]:
    """Export all of it."""
    return [line async for line in export_lines(stack.log, stack.quarantine, {})]


async def read_models(stack: Stack) -> list[Any]:
    """Return users and histories, but for positions, partitions and what a key decides."""
    await catch_up(stack.log, 50)
    found: list[Any] = []
    for application_id, user_id, *row in await stack.pool.fetch(
        "SELECT application_id, user_id, tie_break, kind, occurred_at, recorded_at"
        " FROM userlog.users ORDER BY stream_id"
    ):
        stream = stack.log.stream(application_id, user_id)
        user = await stack.read_model.user(stream)
        assert user
        entries = (await stack.read_model.history(stream)).entries
        shown = [msgspec.structs.replace(entry, position="") for entry in entries]
        tie_break, *rest = row
        found.append((stream.stream_id, tie_break[:-TIE_BREAK_BYTES], *rest, user.company_id))
        found.append((user.lifecycle, bytes(user.state), shown))
    return found


async def empty_stack(
    url: str, open_stack: Callable[[str], Awaitable[Stack]], partitions: int
) -> Stack:
    """Install the schema with so many partitions in an empty database."""
    pool = await open_owner_pool(url, size=2, timeout_s=30)
    async with pool.acquire() as connection:
        await schema.install(connection, partitions)
    await pool.close()
    return await open_stack(url)


async def test_a_log_moves_into_eight_partitions(
    stack: Stack, empty_database_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Export and import give the same read models row for row, times included; so does a repeat."""
    await fill(stack)
    lines = await exported(stack)
    target = await empty_stack(empty_database_url, open_stack, 8)
    first = Importer(target.log, target.quarantine, BY)
    await first.take(lines)
    assert (first.done.duplicates, first.done.erased, first.done.quarantined) == (0, 2, 1)
    assert await read_models(target) == await read_models(stack)
    assert await target.quarantine.count() == 1
    for user in (3, 4):
        assert await target.log.is_erased(target.log.stream(f"a{user % 3}", f"u{user}"))
    assert await verify(target.log, notes=[], progress=lambda *_: None) == []

    again = Importer(target.log, target.quarantine, BY)
    await again.take(lines)
    assert (again.done.appended, again.done.erased) == (0, 0)
    assert await exported(target) == await exported(target)
    assert sorted(without_position(await exported(target))) == sorted(without_position(lines))


def without_position(lines: list[bytes]) -> list[str]:
    """Drop what another number of partitions changes, and when the quarantine saw a body."""
    found: list[str] = []
    for line in lines:
        value = json.loads(line)
        value["userlog"].pop("position", None)
        for name in ("first_seen", "last_seen", "times_seen"):
            value["userlog"].get("quarantined", {}).pop(name, None)
        if value["userlog"].get("event") == "user.erased":
            del value["userlog"]["occurred_at"]
        found.append(json.dumps(value, sort_keys=True))
    return found


async def test_an_import_that_was_cut_short_is_repeated(
    stack: Stack, empty_database_url: str, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Stopped in the middle and run again, it ends with the same log as one clean run."""
    await fill(stack)
    lines = await exported(stack)
    target = await empty_stack(empty_database_url, open_stack, 1)
    await Importer(target.log, target.quarantine, BY).take(lines[:37])
    await Importer(target.log, target.quarantine, BY).take(lines)
    assert without_position(await exported(target)) == without_position(lines)
    assert [p.position.number for p in await target.log.heads()] == [len(lines) - 1]


async def test_plain_deliveries_can_be_imported(stack: Stack) -> None:
    """A file of deliveries as the platform sends them goes in as if they had arrived."""
    importer = Importer(stack.log, stack.quarantine)
    lines = [pretty(1, n).replace(b"\n", b"") for n in range(3)]
    other = b'{"event": {"name": "address", "type": "create"}, "payload": {}}'
    for chunk in chunks([*lines, b"\n", other, b"{", lines[0]]):
        await importer.take(chunk)
    done = importer.done
    assert (done.appended, done.duplicates, done.ignored, done.quarantined) == (3, 1, 1, 1)


async def test_times_that_are_finer_than_the_log_s(stack: Stack) -> None:
    """Times of lines that something else has written are cut to the millisecond."""
    told = [
        (f"2024-01-01T00:00:0{n}.123456Z", encoded(envelope([entry("u", n=n)], at_ms=10**13 + n)))
        for n in range(3)
    ]
    lines = [b'{"userlog":{"recorded_at":"%b"},%b' % (at.encode(), body[1:]) for at, body in told]
    await Importer(stack.log, stack.quarantine).take(lines)
    await catch_up(stack.log, 10)
    assert await assert_log_holds(stack) == 3
    stream, page = stack.log.stream(APP, "u"), Page(limit=1)
    found: list[str] = []
    while len(found) < 4:
        history = await stack.read_model.history(stream, page=page)
        found += [entry.position for entry in history.entries]
        if history.next is None:
            break
        page = Page(limit=1, after=parse_page_key(history.next))
    assert found == ["0:1", "0:2", "0:3"]
