"""Rotation of the master key: wraps every user's key with the new one, events untouched.

Can be stopped and started again: what is wrapped with the new key already is left alone. A key
that is destroyed meanwhile stays destroyed, because only the very bytes that were read are
replaced.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from eventstore.errors import database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.postgres.pool import Pool
    from eventstore.sealing.keys import MasterKey

_SQL = statements.load("eventstore.sealing")
_PAGE_ROWS = 1_000
_FIRST = uuid.UUID(int=0)


async def rotate(
    pool: Pool, partitions: int, master_key: MasterKey, progress: Callable[[int], None]
) -> int:
    """Wrap all keys, of users and of the quarantine, with the new key; return how many were not.

    `progress` is called with the number of keys looked at. The pool must be the schema owner's.
    SealBrokenError if a key opens with neither of the two master keys.
    """
    looked_at = rewrapped = 0
    for partition in range(partitions):
        for table in ("streams", "quarantine"):
            last = _FIRST
            while True:
                with database_errors():
                    rows = await pool.fetch(_SQL[f"{table}_wrapped"], partition, last, _PAGE_ROWS)
                if not rows:
                    break
                last = rows[-1]["id"]
                changes = [
                    (row["id"], row["data_key"], new)
                    for row in rows
                    if (new := master_key.rewrap(row["data_key"], row["id"].bytes)) is not None
                ]
                rewrapped += await _replace(pool, table, partition, changes)
                looked_at += len(rows)
                progress(looked_at)
    return rewrapped


async def _replace(
    pool: Pool, table: str, partition: int, changes: list[tuple[uuid.UUID, bytes, bytes]]
) -> int:
    if changes:
        with database_errors():
            columns = zip(*changes, strict=True)
            await pool.execute(_SQL[f"{table}_rewrap"], partition, *columns)
    return len(changes)
