"""Erasing somebody reaches what is in quarantine about them, and nothing about others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.export_import import Importer, export_lines
from tests.support.database import connected
from tests.support.deliveries import APP, delivery, encoded, entry, envelope, spliced
from tests.support.events import BY

if TYPE_CHECKING:
    from tests.conftest import Stack

pytestmark = pytest.mark.parametrize(
    "partitions", [1, 4], indirect=True, ids="{}-partitions".format
)
NAME = "Zephyrine"


def bad(user_id: str, name: str = NAME) -> bytes:
    """An entry with ids that can be read, and something that can't."""
    return encoded(entry(user_id, first_name=name, note="@")).replace(b'"@"', b'"\xff"')


def together(*entries: bytes, kind: str = "update") -> bytes:
    """A delivery of several entries."""
    return spliced(envelope("@", kind), b"[" + b",".join(entries) + b"]")


async def bodies(stack: Stack) -> dict[str | None, bytes]:
    """Return what is in quarantine, by the user whom it is about."""
    found: dict[str | None, bytes] = {}
    for key in await stack.quarantine.keys(None):
        shown = await stack.quarantine.show(key)
        assert shown
        found[shown[0].user_id] = found.get(shown[0].user_id, b"") + shown[1]
    return found


async def test_only_what_could_not_be_taken_is_kept(stack: Stack) -> None:
    """Of several entries each bad one by itself, with its user's ids, and nothing of the good."""
    good = encoded(entry("good", first_name="Goodwin"))
    receipt = await stack.ingest.deliver(together(good, bad("b1"), bad("b2"), b'{"user":{}}'))
    assert (receipt.accepted, receipt.quarantined) == (1, 3)
    found = await bodies(stack)
    assert found.keys() == {"b1", "b2", None}
    assert not any(b"Goodwin" in body for body in found.values())
    assert all(body.count(b'"user":') == 1 for body in found.values())


async def test_a_conflict_is_its_user_s(stack: Stack) -> None:
    """Beside a good user it is kept alone, and goes with its user."""
    await stack.ingest.deliver(delivery("u", event_id="e1"))
    both = encoded(envelope([entry("u", first_name=NAME), entry("good")], id="e1"))
    receipt = await stack.ingest.deliver(both)
    assert (receipt.accepted, receipt.quarantined) == (1, 1)
    assert b'"good"' not in (await bodies(stack))["u"]
    erasure = await stack.log.erase(stack.log.stream(APP, "u"), BY)
    assert (erasure.quarantined, await bodies(stack)) == (1, {})


@pytest.mark.parametrize("reason", ["not-json", "same-id-other-content"])
async def test_kept_without_ids_by_an_earlier_version(stack: Stack, reason: str) -> None:
    """Replayed, or sent again, a delivery of one user is theirs, once, and goes with them."""
    conflict = encoded(envelope([entry("b1", first_name=NAME)], id="e1"))
    body = together(bad("b1")) if reason == "not-json" else conflict
    await stack.ingest.deliver(delivery("b1", event_id="e1"))
    await stack.quarantine.put(body, reason, "d", {"user-agent": "a"})
    await stack.quarantine.put(together(bad("b2")), "not-json", "d")
    assert (await bodies(stack)).keys() == {None}
    assert (await stack.ingest.deliver(body)).quarantined == 1
    assert await stack.ingest.replay_all()
    assert (await bodies(stack)) == {"b1": body, "b2": together(bad("b2"))}
    assert await stack.quarantine.count() == 2
    assert (await stack.log.erase(stack.log.stream(APP, "b1"), BY)).quarantined == 1
    assert (await bodies(stack)).keys() == {"b2"}


async def test_kept_without_ids_of_the_erased(stack: Stack) -> None:
    """Of who was erased before the upgrade nothing is left."""
    await stack.ingest.deliver(delivery("b1"))
    await stack.quarantine.put(together(bad("b1")), "not-json", "d")
    await stack.log.erase(stack.log.stream(APP, "b1"), BY)
    assert await stack.ingest.replay_all()
    assert (await bodies(stack), await stack.quarantine.count()) == ({}, 0)


async def test_no_room_for_the_parts(stack: Stack) -> None:
    """What could not be taken apart stays whole, the rest is done, and it is tried again."""
    await stack.quarantine.put(together(bad("b1"), bad("b2")), "not-json", "d")
    await stack.quarantine.put(delivery("good"), "not-json", "d")
    stack.quarantine._bytes_max = 1
    assert not await stack.ingest.replay_all()
    assert (await bodies(stack)).keys() == {None}
    assert await stack.quarantine.count() == 1
    stack.quarantine._bytes_max = 1_000_000
    assert await stack.ingest.replay_all()
    assert (await bodies(stack)).keys() == {"b1", "b2"}


@pytest.mark.parametrize("kind", ["update", "merge"])
async def test_erasing_removes_what_is_theirs(stack: Stack, kind: str) -> None:
    """Also where the whole delivery could not be read for its type; others' stays."""
    await stack.ingest.deliver(delivery("b1"))
    await stack.ingest.deliver(together(bad("b1"), bad("b2"), kind=kind))
    erasure = await stack.log.erase(stack.log.stream(APP, "b1"), BY)
    assert erasure.quarantined == 1
    assert (await bodies(stack)).keys() == {"b2"}
    assert await stack.quarantine.count() == 1
    totals = await stack.pool.fetchrow(
        "SELECT sum(deliveries) AS deliveries, sum(bytes) AS bytes FROM userlog.quarantine_totals"
    )
    left = await stack.pool.fetchrow(
        "SELECT count(*) AS deliveries, sum(bytes) AS bytes FROM userlog.quarantine"
    )
    assert totals == left


async def test_who_is_in_quarantine_alone(stack: Stack) -> None:
    """They can be erased too: it is recorded, and nothing of them is taken after that."""
    await stack.ingest.deliver(together(bad("only")))
    stream = stack.log.stream(APP, "only")
    assert not await stack.log.knows(stream)
    erasure = await stack.log.erase(stream, BY)
    assert (erasure.known, erasure.quarantined) == (True, 1)
    assert erasure.position
    assert await stack.log.is_erased(stream)
    receipt = await stack.ingest.deliver(delivery("only", first_name=NAME))
    assert receipt.accepted == 1
    payloads = await stack.pool.fetch("SELECT payload FROM userlog.events")
    assert {row["payload"] for row in payloads} == {b""}


async def test_nothing_of_an_erased_user_is_kept_any_more(stack: Stack) -> None:
    """What can't be read, or is in the log with other content, is acknowledged and dropped."""
    await stack.ingest.deliver(delivery("u"))
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    receipt = await stack.ingest.deliver(together(bad("u"), bad("other")))
    assert (receipt.quarantined, receipt.ignored) == (1, 1)
    for name in ("first", NAME):
        await stack.ingest.deliver(delivery("u", event_id="e2", first_name=name))
    assert (await bodies(stack)).keys() == {"other"}


async def test_replayed_it_is_taken_apart(stack: Stack) -> None:
    """What was kept whole, as by an earlier version, is left in entries, each its user's."""
    body = together(encoded(entry("good")), bad("b1"), bad("b2"))
    whole = await stack.quarantine.put(body, "not-json", "kept whole")
    assert await stack.quarantine.unattributed(10) == [whole]
    assert not await stack.ingest.replay(whole)
    assert (await bodies(stack)).keys() == {"b1", "b2"}
    for key in await stack.quarantine.keys(None):
        assert not await stack.ingest.replay(key)
    assert await stack.quarantine.count() == 2
    assert await stack.log.knows(stack.log.stream(APP, "good"))


async def test_moved_with_its_user(stack: Stack) -> None:
    """Exported and imported it is still its user's, who can be erased there."""
    await stack.ingest.deliver(together(bad("b1")))
    lines = [line async for line in export_lines(stack.log, stack.quarantine, {})]
    stream = stack.log.stream(APP, "b1")
    await stack.log.erase(stream, BY)
    importer = Importer(stack.log, stack.quarantine)
    await importer.take(lines)
    assert importer.done.quarantined == 0, "of an erased user nothing is brought back"
    async with connected(stack.url) as admin:
        await admin.execute("SET session_replication_role = replica")
        await admin.execute("DELETE FROM userlog.streams")
    await importer.take(lines)
    assert (await bodies(stack)).keys() == {"b1"}


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (b'{"user":{"user_id":"x","note":"\xff"}}', True),
        (b'{"user":{"_id":7,"n":1e999}}', True),
        (b'{"user":{"user_id":"x\xff"}}', False),
        (b'{"user":{"note":"\xff"}}', False),
        (b'{"user":[]}', False),
        (b"7", False),
    ],
)
async def test_whose_it_is(stack: Stack, raw: bytes, known: bool) -> None:
    """Ids are read where nothing else can be; an id that is damaged itself is none."""
    await stack.ingest.deliver(together(raw))
    (about,) = await stack.quarantine.newest(10)
    assert (about.user_id is not None) == known
    assert (about.application_id is not None) == known
