"""Everything that is held about a person, and nothing about anybody else."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.audit import Act
from projections.project.projector import catch_up
from projections.query import subject
from projections.query.subject import Subject
from tests.support.database import alter
from tests.support.deliveries import APP, delivery, encoded, entry, envelope
from tests.support.events import BY

if TYPE_CHECKING:
    from tests.conftest import Stack


async def document(stack: Stack, user: str = "u") -> Any:
    """Return the document about a user."""
    about = Subject(stack.log, stack.quarantine, stack.read_model, stack.log.stream(APP, user))
    pieces = [piece async for piece in about.document()]
    return json.loads(b"".join(pieces))


async def lived(stack: Stack, events: int = 7) -> None:
    """Let a user and another one have events, entries in quarantine, and rows in the audit."""
    for n in range(events):
        for user in ("u", "other"):
            name = f"{user.title()}{n}"
            await stack.ingest.deliver(delivery(user, "update", n, event_id=n, first_name=name))
    both = [entry("u", first_name="U-again"), entry("other", first_name="Other-again")]
    await stack.ingest.deliver(encoded(envelope(both, id=1)))
    await catch_up(stack.log, 100)
    for user in ("u", "other"):
        await stack.log.audit.write(Act("subject", BY, f"for {user}"), stack.log.stream(APP, user))


async def test_what_does_not_open(stack: Stack) -> None:
    """It is there without content, and counted; all else is there."""
    await lived(stack)
    u = stack.log.stream(APP, "u").stream_id
    number = await stack.pool.fetchval(
        "SELECT max(position) FROM userlog.events WHERE stream_id = $1", u
    )
    await alter(stack, number)
    await stack.admin.execute("UPDATE userlog.quarantine SET body = 'altered'")
    about = Subject(stack.log, stack.quarantine, stack.read_model, stack.log.stream(APP, "u"))
    found = json.loads(b"".join([piece async for piece in about.document()]))
    (unopened,) = [one for one in found["deliveries"] if one.get("delivery") is None]
    assert unopened["position"] == f"0:{number}"
    assert [one["body"] for one in found["quarantine"]] == [None]
    assert (len(found["deliveries"]), about.unopened) == (7, 2)


async def test_much_in_quarantine(stack: Stack) -> None:
    """Bodies are read one after the other: a sender decides how many and how large they are."""
    for n in range(40):
        body = encoded(envelope([entry("u", first_name=f"{n}", note="@" + "x" * 500_000)]))
        await stack.ingest.deliver(body.replace(b'"@', b'"\xff'))
    about = Subject(stack.log, stack.quarantine, stack.read_model, stack.log.stream(APP, "u"))
    tracemalloc.start()
    try:
        assert await about.exists()
        size = sum([len(piece) async for piece in about.document()])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 20_000_000 > 3 * peak


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
@pytest.mark.parametrize("page", [1, 3, 500])
async def test_complete(stack: Stack, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has as much of each kind as the tables have, counted without userlog."""
    monkeypatch.setattr(subject, "_PAGE_ROWS", page)
    await lived(stack)
    found = await document(stack)
    stream = stack.log.stream(APP, "u")
    for name, table in (
        ("deliveries", "events"),
        ("quarantine", "quarantine"),
        ("audit", "audit"),
        ("history", "history"),
    ):
        counted = await stack.pool.fetchval(
            f"SELECT count(*) FROM userlog.{table} WHERE stream_id = $1", stream.stream_id
        )
        assert len(found[name]) == counted > 0, name
    assert found["user"]["state"]["first_name"] == "U6"
    names = [one["delivery"]["payload"][0]["user"]["first_name"] for one in found["deliveries"]]
    assert names == [f"U{n}" for n in range(7)]
    assert "U-again" in found["quarantine"][0]["body"]
    assert found["audit"][0]["reason"] == "for u"
    assert (found["erased"], found["parked"]) == (False, None)


async def test_nothing_of_anybody_else(stack: Stack) -> None:
    """No name of the other user is anywhere in it."""
    await lived(stack)
    text = json.dumps(await document(stack))
    assert "Other" not in text
    assert "other" not in text.replace("same-id-other-content", "").replace("other content", "")


async def test_of_an_erased_user(stack: Stack) -> None:
    """There is when what happened, and who erased them; nothing that they had told."""
    await lived(stack)
    await stack.log.erase(stack.log.stream(APP, "u"), BY, "asked for it")
    found = await document(stack)
    assert (found["erased"], found["user"], found["history"], found["quarantine"]) == (
        *(True, None, []),
        [],
    )
    assert {one["delivery"] for one in found["deliveries"]} == {None}
    assert found["audit"][-1]["reason"] == "asked for it"


async def test_bytes_that_are_no_text(stack: Stack) -> None:
    """A delivery that has some is there in base64, and the document is JSON."""
    body = delivery("u", note="@").replace(b'"event"', b'"x":"\xff","event"', 1)
    assert (await stack.ingest.deliver(body)).accepted + (await stack.quarantine.count())
    bad = encoded(envelope([entry("u", note="@")])).replace(b'"@"', b'"\xff"')
    await stack.ingest.deliver(bad)
    await catch_up(stack.log, 100)
    found = await document(stack)
    kept = [one.get("delivery_base64", "") for one in found["deliveries"]]
    kept += [one.get("body_base64", "") for one in found["quarantine"]]
    assert b"\xff" in b"".join(map(base64.b64decode, kept))


async def test_who_is_in_quarantine_alone(stack: Stack) -> None:
    """They are somebody too."""
    about = Subject(stack.log, stack.quarantine, stack.read_model, stack.log.stream(APP, "x"))
    assert not await about.exists()
    bad = encoded(envelope([entry("x", note="@"), entry("y")])).replace(b'"@"', b'"\xff"')
    await stack.ingest.deliver(bad)
    assert await about.exists()
    assert len((await document(stack, "x"))["quarantine"]) == 1
