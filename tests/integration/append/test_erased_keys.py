"""The keys of erased users leave the memory of every process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventstore.events import Position
from eventstore.sealing.erased_keys import ErasedKeys, followed
from eventstore.sealing.keyring import Keyring, KeyringLimits
from eventstore.sealing.keys import MasterKey
from projections.project.projector import catch_up
from tests.conftest import MASTER_KEY
from tests.support.database import blocked, holding
from tests.support.deliveries import APP, delivery
from tests.support.events import BY
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventstore.events import Stream
    from tests.conftest import Stack

USERS = 100


def held(stack: Stack, streams: list[Stream]) -> int:
    """Count the users whose keys a process has in memory, and the ciphers that it has."""
    return sum(map(stack.log.keyring.holds, streams)) + stack.log.keyring.ciphers.count


async def known_to(stack: Stack, streams: list[Stream], turn: int = 0) -> None:
    """Let a process use the keys of users."""
    for stream in streams:
        await stack.ingest.deliver(delivery(stream.user_id, "update", turn))
    await catch_up(stack.log, 1000)


@pytest.mark.parametrize("partitions", [2], indirect=True)
async def test_look_ups_in_several_partitions(stack: Stack) -> None:
    """A key that is dropped between the ends of two look-ups ends neither of them otherwise."""
    streams = [stack.log.stream(APP, f"u{n}") for n in range(40_000)]
    many = [one for one in streams if one.partition == 0]
    (one, *_) = (one for one in streams if one.partition == 1)
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY))
    longer = asyncio.create_task(keyring.find_or_make([one]))
    for _ in range(20):  # until the one that began first ends last, as it nearly always does
        await longer
        keyring.forget_all()
        longer = asyncio.create_task(keyring.find_or_make(many))
        await until(lambda: keyring._dropped)
        await keyring.find_or_make([one])
        if not longer.done():
            break
    assert not longer.done()
    keyring.forget(one.stream_id.bytes)
    async with asyncio.timeout(PATIENCE_S):
        assert len(await longer) == len(many)
    assert not keyring.holds(one)


def _fail(error: Exception) -> None:
    pytest.fail(str(error))


async def test_an_idle_process_drops_them(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """Without anything to do, soon after another process has erased their users, and no others."""
    other = await open_stack(stack.url)
    streams = [stack.log.stream(APP, f"u{n}") for n in range(USERS)]
    stays = [stack.log.stream(APP, "stays")]
    async with followed(other.pool, other.log.keyring, _fail):
        await known_to(stack, [*streams, *stays])
        await known_to(other, [*streams, *stays], 1)
        assert held(other, streams) >= USERS
        for stream in streams:
            await stack.log.erase(stream, BY)

        async def none() -> bool:
            return not held(other, streams)

        await until(none)
        assert other.log.keyring.holds(stays[0])
        assert not held(stack, streams)


async def test_a_look_up_under_way_brings_none_back(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """A key that was read before the erasure, and arrives after it was noticed, is not kept."""
    await stack.ingest.deliver(delivery("u"))
    stream = stack.log.stream(APP, "u")
    other = await open_stack(stack.url)
    keyring = other.log.keyring
    for dropped in (False, True):
        async with holding(stack.url, "LOCK TABLE userlog.streams IN ACCESS EXCLUSIVE MODE"):
            reading = asyncio.create_task(keyring.find_or_make([stream]))
            await blocked(stack.admin)
            if dropped:
                keyring.forget(stream.stream_id.bytes)
        assert len(await reading) == 1
        assert keyring.holds(stream) != dropped
        keyring.forget(stream.stream_id.bytes)


async def test_compact_ones_too(stack: Stack) -> None:
    """A key that is not among the last used is dropped as well."""
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY), KeyringLimits(1, 100))
    streams = [stack.log.stream(APP, f"u{n}") for n in range(3)]
    await known_to(stack, streams)
    erased = ErasedKeys(stack.pool, keyring)
    await erased.look()
    for stream in streams:
        await keyring.find_or_make([stream])
    assert all(map(keyring.holds, streams))
    await stack.log.erase(streams[0], BY)
    await erased.look()
    assert [keyring.holds(stream) for stream in streams] == [False, True, True]


async def test_a_row_that_was_read_before_brings_one_back_for_a_moment(stack: Stack) -> None:
    """What is opened with a row of before is dropped at the next look, without another erasure."""
    await stack.ingest.deliver(delivery("u"))
    stream = stack.log.stream(APP, "u")
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY))
    erased = ErasedKeys(stack.pool, keyring)
    await erased.look()
    (row,) = await stack.log.rows_after(Position(0, 0), 10)
    await stack.log.erase(stream, BY)
    await erased.look()
    assert keyring.open(row)
    assert keyring.holds(stream)
    await erased.look()
    assert not keyring.holds(stream)
    assert keyring.ciphers.count == 0


async def test_another_log_has_other_keys(stack: Stack) -> None:
    """After a restore, which the numbers of the audit show, all keys are looked up anew."""
    await stack.ingest.deliver(delivery("b"))
    await stack.log.erase(stack.log.stream(APP, "b"), BY)
    erased = ErasedKeys(stack.pool, stack.log.keyring)
    await erased.look()
    await stack.ingest.deliver(delivery("a"))
    await erased.look()
    assert stack.log.keyring.holds(stack.log.stream(APP, "a"))
    await stack.admin.execute("UPDATE userlog.audit_head SET number = 0")
    await erased.look()
    assert not stack.log.keyring.holds(stack.log.stream(APP, "a"))


async def test_the_old_key_is_refused(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]]
) -> None:
    """append() takes nothing that is sealed with it, from a process that has not noticed yet."""
    await stack.ingest.deliver(delivery("u"))
    other = await open_stack(stack.url)
    await other.ingest.deliver(delivery("u", "update", 1))
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    receipt = await other.ingest.deliver(delivery("u", "update", 2, first_name="Secret"))
    assert receipt.accepted == 1
    payload = await stack.pool.fetchval(
        "SELECT payload FROM userlog.events ORDER BY position DESC LIMIT 1"
    )
    assert payload == b"", "it was recorded without what is in it"


async def test_what_goes_wrong_is_said_once(stack: Stack) -> None:
    """It goes on, and drops keys again as soon as it can."""
    said: list[Exception] = []
    await stack.ingest.deliver(delivery("u"))
    stream = stack.log.stream(APP, "u")
    keyring = Keyring(stack.pool, MasterKey(MASTER_KEY))
    async with followed(stack.pool, keyring, said.append):
        await stack.admin.execute("ALTER TABLE userlog.audit_head RENAME TO elsewhere")

        async def is_said() -> bool:
            return bool(said)

        await until(is_said)
        await stack.admin.execute("ALTER TABLE userlog.elsewhere RENAME TO audit_head")
        await keyring.find_or_make([stream])
        await stack.log.erase(stream, BY)

        async def is_dropped() -> bool:
            return not keyring.holds(stream)

        await until(is_dropped)
    assert len(said) == 1
