"""Follows the erasures of all processes, and drops the keys of erased users from memory.

An erasure destroys a user's key in the database; each process that has used it has it in memory as
well. So every process looks at the end of the audit, where each erasure has a row, a few times a
second, whether it does anything else or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from eventstore.errors import UnavailableError, database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator

    from eventstore.postgres.pool import Pool
    from eventstore.sealing.keyring import Keyring

_SQL = statements.load("eventstore.sealing")
_LOOK_S = 0.4
# Rows that were read before an erasure may still be opened, and bring a key back, for this long.
_AGAIN_S = 20.0


class ErasedKeys:
    """Drops keys from a keyring when their users are erased."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        # How far the audit of each partition has been read.
        self._numbers: dict[int, int] = {}
        # Whose keys were dropped a moment ago, and until when they are dropped again.
        self._again: dict[bytes, float] = {}

    async def look(self) -> None:
        """Drop the keys of users who were erased since the last look; UnavailableError."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["erased_numbers"])
        found = {row["partition"]: row["number"] for row in rows}
        known, self._numbers = self._numbers, found
        behind = {p: known.get(p, 0) for p in found if found[p] > known.get(p, 0)}
        if any(found[p] < known.get(p, 0) for p in found):  # it is another log, or a restored one
            self._keyring.forget_all()
        elif known and behind:
            try:
                self._drop(await self._erased(behind, found))
            except BaseException:
                self._numbers = known
                raise
        self._drop([])

    async def _erased(self, behind: dict[int, int], until: dict[int, int]) -> list[uuid.UUID]:
        ends = [until[partition] for partition in behind]
        with database_errors():
            rows = await self._pool.fetch(
                _SQL["erased_streams"], list(behind), list(behind.values()), ends
            )
        return [row["stream_id"] for row in rows]

    def _drop(self, erased: list[uuid.UUID]) -> None:
        now = time.monotonic()
        self._again = {name: until for name, until in self._again.items() if until > now}
        self._again |= {stream_id.bytes: now + _AGAIN_S for stream_id in erased}
        if self._again:
            self._keyring.forget(*self._again)

    async def follow(self) -> None:
        """Look again and again; a database that is away is waited for."""
        while True:
            with contextlib.suppress(UnavailableError):
                await self.look()
            await asyncio.sleep(_LOOK_S)


@contextlib.asynccontextmanager
async def followed(pool: Pool, keyring: Keyring) -> AsyncGenerator[None]:
    """Drop the keys of erased users for as long as the block lasts."""
    erased = ErasedKeys(pool, keyring)
    await erased.look()  # what was erased before is in no memory
    task = asyncio.create_task(erased.follow(), name="erased keys")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
