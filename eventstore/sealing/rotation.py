"""Rotation of the master key: wraps every user's key with the new one, events untouched.

The log moves to the new key first, so from then on it takes nothing that is sealed under the old
one; only then what was wrapped before is gone through. It can be stopped and started again: what is
wrapped with the new key already is left alone. A key that is destroyed meanwhile stays destroyed,
because only the very bytes that were read are replaced.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from eventstore.errors import LogError, database_errors
from eventstore.postgres import statements
from eventstore.sealing import current_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey

_SQL = statements.load("eventstore.sealing")
_PAGE_ROWS = 1_000
_FIRST = uuid.UUID(int=0)


async def rotate(
    pool: Pool, partitions: int, master_key: MasterKey, progress: Callable[[int], None]
) -> int:
    """Wrap all keys, of users and of the quarantine, with the new key; return how many were not.

    `progress` is called with the number of keys looked at. The pool must be the schema owner's, and
    the previous master key be held. LogError if another rotation is running, MasterKeyMovedError if
    one has come before, to or from a key that is not held. SealBrokenError if a key opens with
    neither of the two.
    """
    async with pool.acquire() as connection:  # one, with which the lock and the work end together
        with database_errors():
            if not await connection.fetchval(_SQL["rotation_lock"]):
                raise LogError("another rotation is running; wait until it has ended")
            await current_key.check(connection, master_key)
        return await _rotate(connection, partitions, master_key, progress)


async def _rotate(
    connection: Connection, partitions: int, master_key: MasterKey, progress: Callable[[int], None]
) -> int:
    new, previous = master_key.fingerprints
    with database_errors():
        noted = {
            row["name"]: row["fingerprint"] for row in await connection.fetch(_SQL["master_keys"])
        }
        if noted.get("master") != new:
            await connection.execute(_SQL["rotation_begin"], new, previous)
        for partition in range(partitions):
            await connection.execute(_SQL["rotation_head"], partition, new)
        master_key.use(new)
    looked_at = rewrapped = await _rewrap_own(connection, master_key)
    for partition in range(partitions):
        for table in ("streams", "quarantine"):
            last = _FIRST
            while True:
                with database_errors():
                    rows = await connection.fetch(
                        _SQL[f"{table}_wrapped"], partition, last, _PAGE_ROWS
                    )
                if not rows:
                    break
                last = rows[-1]["id"]
                changes = [
                    (row["id"], row["data_key"], wrapped)
                    for row in rows
                    if (wrapped := master_key.rewrap(row["data_key"], row["id"].bytes)) is not None
                ]
                rewrapped += await _replace(connection, table, partition, changes)
                looked_at += len(rows)
                progress(looked_at)
    with database_errors():
        await connection.execute(_SQL["rotation_end"])
    return rewrapped


async def _rewrap_own(connection: Connection, master_key: MasterKey) -> int:
    """Wrap the keys of the log's own with the new key; return how many were not."""
    count = 0
    with database_errors():
        for row in await connection.fetch(_SQL["keys_wrapped"]):
            wrapped = master_key.rewrap(row["wrapped"], row["name"].encode())
            if wrapped is not None:
                what = (row["name"], row["wrapped"], wrapped, master_key.new)
                await connection.execute(_SQL["keys_rewrap"], *what)
                count += 1
    return count


async def _replace(
    connection: Connection,
    table: str,
    partition: int,
    changes: list[tuple[uuid.UUID, bytes, bytes]],
) -> int:
    if changes:
        with database_errors():
            columns = zip(*changes, strict=True)
            await connection.execute(_SQL[f"{table}_rewrap"], partition, *columns)
    return len(changes)
