"""Which master key the log is written with, as the log itself says.

The log keeps a fingerprint: in each partition's head, which append() locks anyway, so that it
refuses what is sealed under another key; and in the table of keys, with that of the previous key
while a rotation is unfinished. So nothing is acknowledged that the new key can't open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import asyncpg

from eventstore.errors import MasterKeyMovedError, UnavailableError
from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey

T = TypeVar("T")
_SQL = statements.load("eventstore.sealing")
# What append(), erase() and quarantine_put() refuse another master key with.
_REFUSED = "UL001"
_TRIES_MAX = 3


async def check(source: Pool | Connection, master_key: MasterKey) -> None:
    """MasterKeyMovedError unless all master keys that the log needs are held.

    These are the one that it is written with, which wraps from now on, and the previous one while a
    rotation is unfinished.
    """
    for row in await source.fetch(_SQL["master_keys"]):
        if row["fingerprint"] not in master_key.fingerprints:
            raise MasterKeyMovedError(row["fingerprint"], master_key.fingerprints, row["name"])
        if row["name"] == "master":
            master_key.use(row["fingerprint"])


async def begin(source: Pool | Connection, master_key: MasterKey) -> None:
    """Note which master key the log is written with, unless one is noted."""
    await source.execute(_SQL["key_begin"], master_key.current)


async def follow(source: Pool | Connection, partition: int, master_key: MasterKey) -> None:
    """Wrap with the key that a partition is written with from now on.

    A log that nothing was written to yet is written with this one. MasterKeyMovedError if the
    partition's key is not held.
    """
    found = await source.fetchval(_SQL["head_key"], partition)
    if found is None:
        await begin(source, master_key)
        found = await source.fetchval(_SQL["head_key"], partition)
    if not master_key.use(found):
        raise MasterKeyMovedError(found, master_key.fingerprints)


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Say whether the log has refused what was sealed under another master key."""
    return getattr(error, "sqlstate", None) == _REFUSED


async def with_current_key(
    source: Pool | Connection,
    partition: int,
    master_key: MasterKey,
    work: Callable[[], Awaitable[T]],
) -> T:
    """Do what the log refuses under another master key, and again under the right one.

    MasterKeyMovedError if that is not held.
    """
    for _ in range(_TRIES_MAX):
        try:
            return await work()
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            await follow(source, partition, master_key)
    raise UnavailableError("the master key kept changing; try again")
