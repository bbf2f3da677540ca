"""The audit: who erased whom and why, in rows that nobody changes unseen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from eventstore.audit import Act, Actor
from eventstore.verify.whole import verify
from tests.support.deliveries import APP, delivery
from tests.support.events import BY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack

TOKEN = Actor("token", "support desk", "a1b2c3d4")


async def erased(stack: Stack, count: int = 3) -> None:
    """Erase some users, and do something that is about none."""
    for n in range(count):
        await stack.ingest.deliver(delivery(f"u{n}"))
        await stack.log.erase(stack.log.stream(APP, f"u{n}"), TOKEN, f"asked on day {n}")
    await stack.log.audit.write(Act("users export", BY, about={"columns": "email"}))


async def findings(stack: Stack) -> list[str]:
    """Return what verify finds."""
    return [str(one) for one in await verify(stack.log, notes=[], progress=lambda *_: None)]


@pytest.mark.parametrize("partitions", [1, 3], indirect=True)
async def test_an_erasure_leaves_a_name_and_a_reason(stack: Stack) -> None:
    """By whom and why is known of each, of erasures alone, and user.erased itself stays empty."""
    await erased(stack)
    found = [one for n in range(stack.log.partitions) for one in await stack.log.audit.erasures(n)]
    assert {
        (one.user_id, one.act and one.act.actor, one.act and one.act.reason) for one in found
    } == {(f"u{n}", TOKEN, f"asked on day {n}") for n in range(3)}
    (row,) = await stack.log.audit.of_user(stack.log.stream(APP, "u1"))
    assert (row.act.action, row.position is not None) == ("erase", True)
    payloads = await stack.pool.fetch("SELECT payload FROM userlog.events WHERE kind = 4")
    assert {one["payload"] for one in payloads} == {b""}
    assert await findings(stack) == []


async def test_an_erasure_that_did_nothing_leaves_no_row(stack: Stack) -> None:
    """Neither a second one, nor one of nobody."""
    await erased(stack, 1)
    before = await stack.pool.fetchval("SELECT count(*) FROM userlog.audit")
    for user in ("u0", "nobody"):
        assert (await stack.log.erase(stack.log.stream(APP, user), BY)).position is None
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.audit") == before


async def test_sealed(stack: Stack) -> None:
    """Neither name nor reason is in the table."""
    await erased(stack)
    for row in await stack.pool.fetch("SELECT * FROM userlog.audit"):
        text = b"".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
        assert not any(word in text for word in (b"support", b"asked", b"a1b2", b"export"))


async def test_numbered_without_gaps_by_many_at_once(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Of several processes each row has the next number, and none is twice or missing."""
    other = await open_stack(stack.url)
    act = Act("users export", BY)
    await asyncio.gather(*(one.log.audit.write(act) for one in (stack, other) for _ in range(20)))
    rows = await stack.pool.fetch("SELECT number FROM userlog.audit ORDER BY number")
    assert [row["number"] for row in rows] == list(range(1, 41))
    assert await findings(stack) == []


# What somebody with all rights may do, and what verify says of it.
TAMPERING = {
    "a row removed": ("DELETE FROM userlog.audit WHERE number = 2", "audit row 0:2 is missing"),
    "the last removed": ("DELETE FROM userlog.audit WHERE number = 4", "audit row 0:4 is missing"),
    "all removed": ("DELETE FROM userlog.audit", "audit row 0:1 is missing"),
    "the head set back": (
        "UPDATE userlog.audit_head SET number = 3",
        "audit row 0:4 lies beyond the audit's head",
    ),
    "cut off with its head": (
        (
            "WITH gone AS (DELETE FROM userlog.audit WHERE number > 2)"
            " UPDATE userlog.audit_head SET number = 2,"
            " chain = (SELECT chain FROM userlog.audit WHERE number = 2)"
        ),
        "event 0:6 is an erasure without a row in the audit",
    ),
    "the heads removed": ("DELETE FROM userlog.audit_head", "head of the audit is gone"),
    "two swapped": (
        (
            "UPDATE userlog.audit a SET sealed = b.sealed, stream_id = b.stream_id,"
            " position = b.position FROM userlog.audit b"
            " WHERE a.number IN (1, 2) AND b.number = 3 - a.number"
        ),
        "audit row 0:1 was altered or moved",
    ),
    "numbers swapped": (
        (
            "UPDATE userlog.audit SET number = CASE number WHEN 1 THEN 12 ELSE 11 END"
            " WHERE number < 3; UPDATE userlog.audit SET number = number - 10 WHERE number > 10"
        ),
        "audit row 0:1 was altered or moved",
    ),
    "another time": (
        "UPDATE userlog.audit SET recorded_at = now() WHERE number = 3",
        "audit row 0:3 was altered or moved",
    ),
    "another position": (
        "UPDATE userlog.audit SET position = 1 WHERE number = 1",
        "audit row 0:1 was altered or moved",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_whatever_is_done_to_it_is_found(stack: Stack, what: str) -> None:
    """By verify, which names the first row."""
    await erased(stack)
    statements, said = TAMPERING[what]
    for statement in statements.split(";"):
        await stack.admin.execute(statement)
    (found,) = await findings(stack)
    assert said in found


async def test_forged_by_who_can_compute_the_chain(stack: Stack) -> None:
    """A row that audit() took from somebody without the key does not open."""
    await erased(stack)
    await stack.pool.execute("SELECT userlog.audit(0, NULL, NULL, 'made up')")
    assert "audit row 0:5 is not what userlog wrote" in (await findings(stack))[0]


async def test_moved_to_another_user_by_who_can_compute_the_chain(stack: Stack) -> None:
    """A row opens for its own user alone."""
    await erased(stack)
    await stack.pool.execute(
        "SELECT userlog.audit(0, (SELECT stream_id FROM userlog.audit WHERE number = 2), 4,"
        " (SELECT sealed FROM userlog.audit WHERE number = 1))"
    )
    assert "audit row 0:5 is not what userlog wrote" in (await findings(stack))[0]


async def test_a_partition_that_is_not_there(stack: Stack) -> None:
    """It is refused with its number."""
    with pytest.raises(asyncpg.NoDataFoundError, match="no partition 7"):
        await stack.pool.execute("SELECT userlog.audit(7, NULL, NULL, '')")


async def test_found_again_by_another_process(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """What is sealed is read back as it was written."""
    act = Act("subject", TOKEN, "a letter", {"number": 3})
    await stack.ingest.deliver(delivery("u"))
    await stack.log.audit.write(act, stack.log.stream(APP, "u"))
    other = await open_stack(stack.url)
    (row,) = await other.log.audit.of_user(other.log.stream(APP, "u"))
    assert msgspec.structs.asdict(row.act) == msgspec.structs.asdict(act)
    assert (str(row.act.actor), str(BY)) == ("token support desk (a1b2c3d4)", "command tests")
