"""What `userlog verify` finds when somebody with all rights changed the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from eventstore.events import Kind, NewEvent, Position
from eventstore.verify.finding import Finding, Note
from eventstore.verify.whole import verify
from tests.support.events import BY

if TYPE_CHECKING:
    from tests.conftest import Stack

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def fill(stack: Stack) -> None:
    """Append twelve events of three users, in three batches of four."""
    for batch in range(3):
        await stack.log.append([event(str(i % 3), f"{batch}-{i}") for i in range(4)])


def event(user_id: str, name: str) -> NewEvent:
    """Make an event whose payload can't be mistaken for another's."""
    return NewEvent("app", user_id, Kind.UPDATED, NOON, name.encode(), b"", name.encode() * 50)


async def findings(stack: Stack, *notes: Note) -> list[Finding]:
    """Verify the log of a stack."""
    return await verify(stack.log, notes=list(notes), progress=lambda _done, _total: None)


async def tamper(stack: Stack, *statements: str) -> None:
    """Do what only a superuser can, and only with the guards off."""
    connection = await asyncpg.connect(stack.url)
    try:
        await connection.execute("SET session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_log_left_alone_is_whole(stack: Stack) -> None:
    """Nothing is found in a log that nobody touched, erased users and all."""
    assert await findings(stack) == []
    await fill(stack)
    await stack.log.erase(stack.log.stream("app", "1"), BY)
    await stack.log.append([event("1", "after erasure")])
    assert await findings(stack) == []


UPDATE = "UPDATE userlog.events SET "
SWAP = (
    UPDATE + "position = 100 WHERE position = {0}",
    UPDATE + "position = {0} WHERE position = {1}",
    UPDATE + "position = {1} WHERE position = 100",
)
INSERT = """
    INSERT INTO userlog.events
    SELECT partition, kind, 13, stream_id, occurred_at, recorded_at,
        substring(sha256(identity) FROM 1 FOR 16), digest, leaf, payload, chain
    FROM userlog.events WHERE position = 2
"""
MOVE_HEAD = "UPDATE userlog.log_head SET position = 13"
FLIP = "payload = set_byte(payload, 20, 255 - get_byte(payload, 20)) WHERE position = 7"
FORGET = "DELETE FROM userlog.streams WHERE user_id = '0'"
SPOIL = (
    "UPDATE userlog.streams SET data_key = set_byte(data_key, 20, 255 - get_byte(data_key, 20))"
    " WHERE user_id = '1'"
)
TAMPERING = {
    "payload byte": ([UPDATE + FLIP], 7, "altered"),
    "kind": ([UPDATE + "kind = 1 WHERE position = 6"], 6, "altered"),
    "occurred_at": ([UPDATE + "occurred_at = 'epoch' WHERE position = 6"], 6, "altered"),
    "recorded_at": ([UPDATE + "recorded_at = 'epoch' WHERE position = 6"], 6, "altered"),
    "leaf": ([UPDATE + "leaf = '\\x0000000000000000' WHERE position = 9"], 9, "altered"),
    "chain": ([UPDATE + "chain = sha256(chain) WHERE position = 8"], 5, "one of the 4 events"),
    "deleted": (["DELETE FROM userlog.events WHERE position = 5"], 5, "missing"),
    "swapped within a batch": ([one.format(6, 7) for one in SWAP], 6, "altered"),
    "swapped between batches": ([one.format(3, 10) for one in SWAP], 3, "altered"),
    "inserted": ([INSERT, MOVE_HEAD], 13, "altered"),
    "inserted behind the head": ([INSERT], 13, "beyond the head"),
    "stream deleted": ([FORGET], 1, "key and name are gone"),
    "key altered": ([SPOIL], 2, "does not open"),
}


@pytest.mark.parametrize(("statements", "position", "problem"), TAMPERING.values(), ids=TAMPERING)
async def test_whatever_was_changed_is_named(
    stack: Stack, statements: list[str], position: int, problem: str
) -> None:
    """The first position that is not as it was appended is named, and what is wrong with it."""
    await fill(stack)
    await tamper(stack, *statements)
    stack.log.keyring.forget(stack.log.stream("app", "1").stream_id.bytes)
    (found,) = await findings(stack)
    assert found.position == Position(0, position)
    assert problem in found.problem


async def test_a_cut_off_log_is_found_with_a_note(stack: Stack) -> None:
    """The last batch removed and the head set back looks whole, but not against what was noted."""
    await fill(stack)
    (head,) = await stack.log.heads()
    note = Note(head.position, head.chain)
    assert await findings(stack, note) == []
    await tamper(
        stack,
        "DELETE FROM userlog.events WHERE position > 8",
        "UPDATE userlog.log_head SET position = 8, chain = e.chain, recorded_at = e.recorded_at"
        " FROM userlog.events e WHERE e.position = 8",
    )
    assert await findings(stack) == []
    (found,) = await findings(stack, note)
    assert (found.position, "ends at 0:8" in found.problem) == (Position(0, 12), True)


async def test_a_rewritten_history_is_found_with_a_note(stack: Stack) -> None:
    """A log of the same length but another content has another hash than was noted."""
    await fill(stack)
    note = Note(Position(0, 12), bytes(32))
    (found,) = await findings(stack, note)
    assert found == Finding(
        Position(0, 12), "has another hash than was noted: history was rewritten"
    )


async def test_a_note_of_another_log(stack: Stack) -> None:
    """A note of a partition that is not there is not passed over."""
    await fill(stack)
    (found,) = await findings(stack, Note(Position(5, 1), bytes(32)))
    assert found == Finding(Position(5, 1), "was noted, but the log has no such partition")


def test_a_note_is_read_back_as_status_prints_it() -> None:
    """A note is position and hash with colons between; anything else is refused."""
    assert Note.parse("3:42:00ff") == Note(Position(3, 42), b"\x00\xff")
    for wrong in ("", "42", "0:42", "0:x:00", "0:1:0g"):
        with pytest.raises(ValueError, match=r".*"):
            Note.parse(wrong)


async def test_time_does_not_run_back(stack: Stack) -> None:
    """An import's times count, but never before those that are in the log already."""
    early, late = NOON - timedelta(days=9), NOON - timedelta(days=5)
    for user, time in (("0", late), ("1", early)):
        imported = msgspec.structs.replace(event(user, "x"), recorded_at=time)
        await stack.log.append([imported])
    rows = await stack.pool.fetch("SELECT recorded_at FROM userlog.events ORDER BY position")
    assert [row["recorded_at"] for row in rows] == [late, late]
    assert await findings(stack) == []
