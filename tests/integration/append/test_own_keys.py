"""Keys of the log's own: made once, wrapped by the master key, and kept through its rotation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.errors import MasterKeyMovedError, SealBrokenError
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.own_keys import OwnKeys
from eventstore.sealing.rotation import rotate
from tests.conftest import MASTER_KEY

if TYPE_CHECKING:
    from tests.conftest import Stack

NEW = b"another master key of just 32 b."


def keys(stack: Stack, *master: bytes) -> OwnKeys:
    """Return the keys as another process finds them."""
    return OwnKeys(stack.pool, MasterKey(*(master or (MASTER_KEY,))))


async def test_made_once(stack: Stack) -> None:
    """Of several processes that need a key at once one makes it, and all have the same."""
    assert await keys(stack).find("search") is None
    found = await asyncio.gather(*(keys(stack).find_or_make("search") for _ in range(4)))
    assert len(set(found)) == 1
    assert await keys(stack).find("search") == found[0]
    assert await keys(stack).find_or_make("quarantine") != found[0]


async def test_a_rotation_keeps_them(stack: Stack) -> None:
    """The new master key opens what the old one has wrapped; with the old one none is made."""
    made = await keys(stack).find_or_make("search")
    await rotate(stack.admin, 1, MasterKey(NEW, MASTER_KEY), lambda _: None)
    assert await keys(stack, NEW).find("search") == made
    with pytest.raises(MasterKeyMovedError):
        await keys(stack).find_or_make("quarantine")
    assert await keys(stack, NEW, MASTER_KEY).find_or_make("quarantine")


async def test_one_that_does_not_open(stack: Stack) -> None:
    """With the old master key it is said which one is needed; one that was altered is named."""
    await keys(stack).find_or_make("search")
    await rotate(stack.admin, 1, MasterKey(NEW, MASTER_KEY), lambda _: None)
    with pytest.raises(MasterKeyMovedError):
        await keys(stack).find("search")
    await stack.admin.execute("UPDATE userlog.keys SET wrapped = 'x' WHERE name = 'search'")
    with pytest.raises(SealBrokenError, match="the log's key `search`"):
        await keys(stack, NEW).find("search")


async def test_the_service_changes_none(stack: Stack) -> None:
    """Its rights suffice to make a key, and neither to replace one nor to name a master key."""
    made = await keys(stack).find_or_make("search")
    fingerprint = MasterKey(MASTER_KEY).current
    for name in ("search", "master"):
        await stack.pool.execute("SELECT userlog.key_make($1, $2, 'x')", name, fingerprint)
    assert await keys(stack).find("search") == made
    assert (
        await stack.admin.fetchval("SELECT wrapped FROM userlog.keys WHERE name = 'master'") is None
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stack.pool.execute("DELETE FROM userlog.keys")
