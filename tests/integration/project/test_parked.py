"""An event that can't be projected: its user stands still, visibly, and everybody else goes on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventstore.errors import UnavailableError
from projections.fold.poison import PoisonError
from projections.project import parked
from projections.project.projector import catch_up
from projections.project.repair import repair
from projections.rebuild.rebuild import Plan, rebuild
from tests.support.database import (
    alter,
    begin_again,
    blocked,
    holding,
    kill,
    parked_events,
    restore,
    tables,
)
from tests.support.deliveries import APP, T0, delivery, encoded, entry, envelope
from tests.support.events import BY, event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack
    from tests.support.lines import Lines

MS = timedelta(milliseconds=1)
TWO_USERS = encoded(envelope([entry("u"), entry("v")]))
UNREADABLE = event("u", "poison", payload=b"not a delivery")
ANOTHER = event("u", "another", payload=b"not a delivery")


async def _deliver(stack: Stack, *bodies: bytes) -> None:
    for body in bodies:
        assert not (await stack.ingest.deliver(body)).quarantined


async def _state(stack: Stack, user_id: str, valid_ms: int | None = None) -> Any:
    """Return what is known of a user, now or some milliseconds after T0."""
    valid_at = None if valid_ms is None else T0 + valid_ms * MS
    found = await stack.read_model.user(stack.log.stream(APP, user_id), valid_at)
    return found and msgspec.json.decode(found.state)


async def test_the_rest_goes_on(stack: Stack, lines: Lines) -> None:
    """A user with an unreadable event keeps the state before it; all others are up to date."""
    await _deliver(stack, delivery(at_ms=5, first_name="A"), delivery("v", first_name="V"))
    await _deliver(stack, delivery(at_ms=3, gender="x"))
    await stack.log.append([UNREADABLE])
    await _deliver(stack, delivery(at_ms=9, first_name="B"), delivery(at_ms=1, first_name="C"))
    await stack.log.append([ANOTHER])
    await _deliver(stack, delivery("v", at_ms=1, first_name="W"))
    found: list[Any] = []
    for batch_max in (1, 2, 3, 4, 5, 1_000):
        await begin_again(stack)
        assert await catch_up(stack.log, batch_max) == 8
        assert await parked_events(stack) == [("0:4", "unreadable")]
        assert lines.all() == ["user parked"]
        found.append(await tables(stack.pool))
    assert found == [found[0]] * len(found)
    assert await _state(stack, "u") == {"first_name": "A", "gender": "x"}
    assert await _state(stack, "v") == {"first_name": "W"}
    assert [row[4] for row in found[0][1]].count(4) == 0
    assert len(found[0][1]) == 4


async def test_rows_that_the_database_does_not_take(stack: Stack, lines: Lines) -> None:
    """Their users are parked, the rest of the batch goes on; a repair takes them up again."""
    users = [f"u{n}" for n in range(20)]
    await _deliver(stack, delivery("u7", first_name="A"))
    await catch_up(stack.log, 100)
    await stack.admin.execute(
        "ALTER TABLE userlog.users ADD CONSTRAINT odd CHECK (user_id <> 'u3' AND sealed <> 'x'"
        " AND (user_id <> 'u7' OR position = 1))"
    )
    await _deliver(stack, *(delivery(one, at_ms=9, first_name="B") for one in users))
    assert await catch_up(stack.log, 100) == 20
    assert await parked_events(stack) == [(f"0:{n}", "CheckViolationError") for n in (5, 9)]
    assert lines.all() == ["user parked"] * 2
    states = [await _state(stack, one) for one in users]
    expected = {"u3": None, "u7": {"first_name": "A"}}
    assert states == [expected.get(one, {"first_name": "B"}) for one in users]
    await stack.admin.execute("ALTER TABLE userlog.users DROP CONSTRAINT odd")
    for one in ("u3", "u7"):
        assert await repair(stack.log, stack.log.stream(APP, one)) is None
        assert await _state(stack, one) == {"first_name": "B"}


async def test_one_line_without_a_name(stack: Stack, lines: Lines) -> None:
    """The line about it says where and why and nothing of the user, and is said once."""
    await stack.log.append([UNREADABLE, ANOTHER])
    await catch_up(stack.log, 1)
    line = await lines.until("user parked")
    assert line == {
        "event": "user parked",
        "level": "error",
        "generation": 1,
        "position": "0:1",
        "reason": "unreadable",
        "exc_info": None,
    }
    assert lines.all() == []


async def _altered(stack: Stack) -> None:
    await _deliver(stack, delivery(at_ms=9))
    await alter(stack, 2)


async def _of_two_users(stack: Stack) -> None:
    await stack.log.append([event("u", "poison", payload=TWO_USERS)])


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_altered, "seal-broken"), (_of_two_users, "ValueError")],
)
async def test_whatever_is_wrong(
    stack: Stack, make: Callable[[Stack], Awaitable[None]], reason: str
) -> None:
    """A broken seal, or a defect that an event brings to light, is that user's alone too."""
    await _deliver(stack, delivery(at_ms=1))
    await catch_up(stack.log, 10)
    await make(stack)
    await _deliver(stack, delivery("v"))
    assert await catch_up(stack.log, 10) == 2
    assert await parked_events(stack) == [("0:2", reason)]
    assert await _state(stack, "v") == {}


async def test_a_broken_row(stack: Stack) -> None:
    """If it is the row that is wrong and not the event, the user is folded again from the log."""
    await _deliver(stack, delivery(first_name="A"))
    await catch_up(stack.log, 10)
    await stack.admin.execute("UPDATE userlog.users SET sealed = 'x'")
    await _deliver(stack, delivery(at_ms=9, gender="x"))
    await catch_up(stack.log, 10)
    assert await _state(stack, "u") == {"first_name": "A", "gender": "x"}
    assert await parked_events(stack) == []


async def test_an_old_event_that_has_gone_bad(stack: Stack) -> None:
    """Found when a late event has the user folded again, it takes nothing away from their row."""
    await _deliver(stack, delivery(at_ms=1, first_name="A"), delivery(at_ms=2, gender="x"))
    await catch_up(stack.log, 10)
    await alter(stack, 2)
    await _deliver(stack, delivery(at_ms=0, first_name="late"))
    await catch_up(stack.log, 10)
    assert await parked_events(stack) == [("0:2", "seal-broken")]
    assert await _state(stack, "u") == {"first_name": "A", "gender": "x"}


async def test_a_database_that_goes_away(stack: Stack) -> None:
    """That the database is away parks nobody."""
    await _deliver(stack, delivery())
    async with holding(stack.url, "LOCK TABLE userlog.parked IN EXCLUSIVE MODE") as admin:
        await stack.log.append([UNREADABLE])
        projecting = asyncio.create_task(catch_up(stack.log, 10))
        await kill(admin, await blocked(admin))
        with pytest.raises(UnavailableError):
            await projecting
    assert await parked_events(stack) == []
    assert await stack.pool.fetchval("SELECT position FROM userlog.checkpoints") == 0


async def test_moments_around_it(stack: Stack) -> None:
    """A question about a moment reads the log: it fails only if it needs the unreadable event.

    The user's row, which does not know of events after it, is not asked what to look for.
    """
    full = {"first_name": "A", "gender": "x"}
    await _deliver(stack, delivery(at_ms=0, **full), delivery(at_ms=100, **full))
    await alter(stack, 2)
    await _deliver(stack, delivery(at_ms=10, dob="2000-01-01"))
    await _deliver(stack, *(delivery(at_ms=20 + n, **full) for n in range(9)))
    await catch_up(stack.log, 100)
    assert await parked_events(stack) == [("0:2", "seal-broken")]
    for valid_ms in (50, 99):
        assert await _state(stack, "u", valid_ms) == {**full, "dob": "2000-01-01"}
    with pytest.raises(PoisonError, match="0:2"):
        await _state(stack, "u", 100)


async def test_answers_say_so(stack: Stack) -> None:
    """The user's answer and history name the event that they lack, and no other user's do."""
    await _deliver(stack, delivery(first_name="A"), delivery("v"))
    await stack.log.append([UNREADABLE])
    await catch_up(stack.log, 10)
    stream = stack.log.stream(APP, "u")
    user, history = await stack.read_model.user(stream), await stack.read_model.history(stream)
    assert user
    assert user.stale == history.stale == await stack.read_model.stale(stream)
    assert user.stale
    assert (user.stale.position, user.stale.reason) == ("0:3", "unreadable")
    assert len(history.entries) == 1
    other = stack.log.stream(APP, "v")
    assert b"stale" not in msgspec.json.encode(await stack.read_model.user(other))
    assert b"stale" not in msgspec.json.encode(await stack.read_model.history(other))
    assert await parked.count(stack.pool) == 1
    (listed,) = await parked.list_all(stack.pool)
    assert (listed.position, listed.application_id, listed.user_id) == ("0:3", APP, "u")


@pytest.mark.parametrize("projected", [False, True])
async def test_erasing_clears_it(stack: Stack, projected: bool) -> None:
    """Of an erased user nothing is parked, whether the projector saw the event before or not."""
    await stack.log.append([UNREADABLE])
    if projected:
        await catch_up(stack.log, 10)
        assert await parked_events(stack) == [("0:1", "unreadable")]
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    assert await parked_events(stack) == []
    await catch_up(stack.log, 10)
    assert await parked_events(stack) == []


async def test_a_mark_made_while_erasing(stack: Stack) -> None:
    """A mark that a projector committed just after the erasure goes with the erasure's event."""
    await stack.log.append([UNREADABLE])
    await catch_up(stack.log, 10)
    mark = dict((await stack.pool.fetch("SELECT * FROM userlog.parked"))[0])
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    await stack.admin.execute(
        "INSERT INTO userlog.parked VALUES ($1, $2, $3, $4, $5, $6)", *mark.values()
    )
    await catch_up(stack.log, 10)
    assert await parked_events(stack) == []


async def test_a_rebuild_clears_it(stack: Stack) -> None:
    """Once the event can be read, a full rebuild brings the user up to date and forgets the mark.

    As long as it can't, the rebuild stops and leaves everything as it is.
    """
    await _deliver(stack, delivery(first_name="A"), delivery(at_ms=1, first_name="B"))
    await alter(stack, 2)
    await catch_up(stack.log, 10)
    with pytest.raises(PoisonError, match="0:2"):
        await rebuild(stack.source, Plan())
    assert await parked_events(stack) == [("0:2", "seal-broken")]
    await restore(stack, 2)
    await rebuild(stack.source, Plan())
    assert await _state(stack, "u") == {"first_name": "B"}
    assert await parked_events(stack) == []
