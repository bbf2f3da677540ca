"""One user's rows made again from the log, in place, while everything goes on."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from projections.project.projector import Projector, catch_up
from projections.project.repair import repair
from tests.support.database import (
    alter,
    begin_again,
    blocked,
    holding,
    parked_events,
    restore,
    tables,
)
from tests.support.deliveries import APP, delivery
from tests.support.events import BY
from tests.support.parameters import MANY
from tests.support.waiting import PATIENCE_S, meanwhile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from projections.fold.poison import PoisonError
    from tests.conftest import Stack

SECOND_GENERATION = """
CREATE TABLE userlog.users_g2 PARTITION OF userlog.users FOR VALUES IN (2);
CREATE TABLE userlog.history_g2 PARTITION OF userlog.history FOR VALUES IN (2);
CREATE TABLE userlog.terms_g2 PARTITION OF userlog.terms FOR VALUES IN (2);
INSERT INTO userlog.generations (generation, state, fold) VALUES (2, 'live', 4);
INSERT INTO userlog.checkpoints (partition, generation)
SELECT partition, 2 FROM userlog.log_head;
"""
EVERY_GENERATION = "SELECT * FROM userlog.{} t ORDER BY generation, t::text"


async def _deliver(stack: Stack, *bodies: bytes) -> None:
    for body in bodies:
        assert not (await stack.ingest.deliver(body)).quarantined


async def _repair(stack: Stack, user_id: str = "u") -> PoisonError | None:
    return await repair(stack.log, stack.log.stream(APP, user_id))


async def _name(stack: Stack) -> Any:
    found = await stack.read_model.user(stack.log.stream(APP, "u"))
    return found and msgspec.json.decode(found.state).get("first_name")


async def _whole(stack: Stack) -> list[list[Any]]:
    """Return what a projection from the beginning makes of the log."""
    await begin_again(stack)
    await catch_up(stack.log, 1_000)
    return await tables(stack.pool)


async def test_one_who_was_parked(stack: Stack) -> None:
    """Once the event can be read the user has all their events, and later ones are projected."""
    await _deliver(stack, *(delivery(at_ms=n * 7 % 5, first_name=f"{n}") for n in range(5)))
    await _deliver(stack, delivery("v"))
    await alter(stack, 3)
    await catch_up(stack.log, 2)
    assert await parked_events(stack) == [("0:3", "seal-broken")]
    await restore(stack, 3)
    assert await _repair(stack) is None
    assert await parked_events(stack) == []
    await _deliver(stack, delivery(at_ms=2, gender="x"), delivery(at_ms=9, first_name="last"))
    await catch_up(stack.log, 2)
    found = await tables(stack.pool)
    assert await _name(stack) == "last"
    assert found == await _whole(stack)


async def test_still_unreadable(stack: Stack) -> None:
    """As long as the event can't be read nothing changes, and its position is returned."""
    await _deliver(stack, *(delivery(at_ms=n, first_name=f"{n}") for n in range(4)))
    await alter(stack, 3)
    await catch_up(stack.log, 10)
    before = await tables(stack.pool)
    left = await _repair(stack)
    assert left
    assert (str(left.position), left.reason) == ("0:3", "seal-broken")
    assert await tables(stack.pool) == before
    assert await parked_events(stack) == [("0:3", "seal-broken")]


async def test_a_second_one_behind_it(stack: Stack) -> None:
    """If another event is in the way then, the user has all before that one."""
    await _deliver(stack, *(delivery(at_ms=n, first_name=f"{n}") for n in range(6)))
    for number in (2, 5):
        await alter(stack, number)
    await catch_up(stack.log, 10)
    assert await _name(stack) == "0"
    await restore(stack, 2)
    left = await _repair(stack)
    assert left
    assert str(left.position) == "0:5"
    assert await parked_events(stack) == [("0:5", "seal-broken")]
    assert await _name(stack) == "3"
    await restore(stack, 5)
    assert await _repair(stack) is None
    assert await tables(stack.pool) == await _whole(stack)


async def test_the_first_of_all(stack: Stack) -> None:
    """A user of whom nothing could be read appears when it can be."""
    await _deliver(stack, delivery(first_name="A"))
    await alter(stack, 1)
    await catch_up(stack.log, 10)
    assert await _repair(stack)
    assert await _name(stack) is None
    await restore(stack, 1)
    assert await _repair(stack) is None
    assert await _name(stack) == "A"


DAMAGES = {
    "changed": [
        "UPDATE userlog.users SET sealed = 'x', lifecycle = 2, tie_break = '\\xff'",
        "UPDATE userlog.history SET sealed = 'x'",
    ],
    "gone": ["DELETE FROM userlog.users", "DELETE FROM userlog.history"],
    "unreadable": ["UPDATE userlog.users SET sealed = ''"],
    "doubled": [
        (
            "INSERT INTO userlog.history SELECT partition, generation, position + 1000,"
            " occurred_at, recorded_at, stream_id, kind, late, lifecycle_before, lifecycle_after,"
            " tie_break, sealed FROM userlog.history"
        ),
    ],
}


@MANY
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_rows(stack: Stack, damage: str) -> None:
    """Rows that were damaged by hand are made again for this user, and left for every other."""
    for n in range(3):
        await _deliver(stack, delivery("u", at_ms=-n, n=n), delivery("v", at_ms=-n, n=n))
    await catch_up(stack.log, 10)
    right = await tables(stack.pool)
    for statement in DAMAGES[damage]:
        await stack.admin.execute(statement)
    wrong = await tables(stack.pool)
    ours = str(stack.log.stream(APP, "u").stream_id)
    assert await _repair(stack) is None
    for before, damaged, now in zip(right, wrong, await tables(stack.pool), strict=True):
        assert [row for row in now if str(row[1]) == ours] == [
            r for r in before if str(r[1]) == ours
        ]
        assert [row for row in now if str(row[1]) != ours] == [
            r for r in damaged if str(r[1]) != ours
        ]
    assert await _repair(stack, "v") is None
    assert await tables(stack.pool) == right


async def test_a_damaged_event_of_one_who_is_up_to_date(stack: Stack) -> None:
    """A user whose old event has gone bad keeps their rows: the fold could only take from them."""
    await _deliver(stack, delivery(at_ms=1, first_name="A"), delivery(at_ms=2, gender="x"))
    await catch_up(stack.log, 10)
    before = await tables(stack.pool)
    await alter(stack, 1)
    left = await _repair(stack)
    assert left
    assert str(left.position) == "0:1"
    assert await tables(stack.pool) == before
    assert await parked_events(stack) == []


async def test_erased_and_unknown(stack: Stack) -> None:
    """Whoever is erased, or was never heard of, has no rows afterwards, wherever they came from."""
    await _deliver(stack, delivery(first_name="A"))
    await catch_up(stack.log, 10)
    for user_id, known in (("u", True), ("nobody", False)):
        stream = stack.log.stream(APP, user_id)
        if known:
            await stack.log.erase(stream, BY)
        await stack.admin.execute(
            "INSERT INTO userlog.terms VALUES (0, 1, $1, '{}', '{}', '{}')",
            stream.stream_id,
        )
        assert await _repair(stack, user_id) is None
        assert await stack.pool.fetchval("SELECT count(*) FROM userlog.terms") == 0


async def test_every_live_generation(stack: Stack) -> None:
    """Each generation that is kept up to date is repaired, at its own position."""
    await stack.admin.execute(SECOND_GENERATION)
    await _deliver(stack, delivery(first_name="A"), delivery(at_ms=1, first_name="B"))
    await alter(stack, 2)
    await catch_up(stack.log, 10)
    marks = "SELECT count(*) FROM userlog.parked WHERE position = 2"
    assert await stack.pool.fetchval(marks) == 2
    await restore(stack, 2)
    assert await _repair(stack) is None
    assert await stack.pool.fetchval(marks) == 0
    for table in ("users", "history", "numbers"):
        rows = await stack.pool.fetch(EVERY_GENERATION.format(table))
        by_generation = [
            [
                tuple(v for k, v in row.items() if k != "generation")
                for row in rows
                if row["generation"] == g
            ]
            for g in (1, 2)
        ]
        assert by_generation[0] == by_generation[1]
        assert by_generation[0]


async def test_no_further_than_the_checkpoint(stack: Stack) -> None:
    """Events that wait to be projected are left to the projector, which takes each once."""
    await _deliver(stack, delivery(first_name="A"))
    await catch_up(stack.log, 10)
    await _deliver(stack, delivery(at_ms=1, first_name="B"))
    assert await _repair(stack) is None
    assert await _name(stack) == "A"
    await catch_up(stack.log, 10)
    assert await tables(stack.pool) == await _whole(stack)


async def test_it_waits_for_the_projector(stack: Stack) -> None:
    """A repair begins when the batch that holds the checkpoint has ended, not within it."""
    await _deliver(stack, delivery(first_name="A"))
    async with holding(stack.url, "SELECT 1 FROM userlog.checkpoints FOR UPDATE"):
        repairing = asyncio.create_task(_repair(stack))
        await blocked(stack.admin)
    assert await repairing is None


@MANY
async def test_while_everything_goes_on(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Repairs between running projectors and appends lose nothing and double nothing."""
    other = await open_stack(stack.url)
    chance = random.Random(7)
    projector = Projector(other.log, batch_max=3, poll_s=0.002)
    projector.start()
    other.log.observers.append(lambda _events, _seconds: projector.wake())
    users = [f"u{n}" for n in range(5)]
    bodies = [
        delivery(chance.choice(users), at_ms=chance.randrange(50), first_name=f"{n}", n=n)
        for n in range(150)
    ]

    async def append() -> None:
        for body in bodies:
            await _deliver(other, body)

    repairs = 0
    async with meanwhile(append()) as appending, asyncio.timeout(PATIENCE_S):
        while not appending.done():
            assert await _repair(stack, chance.choice(users)) is None
            repairs += 1
        await appending
    await projector.stop()
    await catch_up(stack.log, 10)
    assert repairs > 5
    assert await tables(stack.pool) == await _whole(stack)
