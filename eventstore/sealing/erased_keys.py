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
    from collections.abc import AsyncGenerator, Callable

    from eventstore.postgres.pool import Pool
    from eventstore.sealing.keyring import Keyring

_SQL = statements.load("eventstore.sealing")
_LOOK_S = 0.4
# Rows that were read before an erasure may still be opened, and bring a key back, for this long.
_AGAIN_S = 20.0
_AT_ONCE = 1_000


class ErasedKeys:
    """Drops keys from a keyring when their users are erased."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        # How far the audit of each partition has been read.
        self._numbers: dict[int, int] = {}
        # Until when what rows bring back is dropped again.
        self._again_until = -float("inf")

    async def look(self) -> None:
        """Drop the keys of users who were erased since the last look; UnavailableError."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["erased_numbers"])
        found = {row["partition"]: row["number"] for row in rows}
        known = self._numbers
        if not known or any(found.get(p, 0) < number for p, number in known.items()):
            self._keyring.forget_all()  # it is another log, or a restored one
        elif found != known:
            await self._drop_since(known, found)
        self._numbers = found
        if time.monotonic() < self._again_until:
            self._keyring.forget()

    async def _drop_since(self, known: dict[int, int], found: dict[int, int]) -> None:
        behind = [p for p in found if found[p] > known.get(p, 0)]
        since = [known.get(p, 0) for p in behind]
        with database_errors():
            until = [found[p] for p in behind]
            rows = await self._pool.fetch(_SQL["erased_streams"], behind, since, until)
        self._again_until = time.monotonic() + _AGAIN_S
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            self._keyring.forget(*(row["stream_id"].bytes for row in some))
            await asyncio.sleep(0)

    async def follow(self, failed: Callable[[Exception], None]) -> None:
        """Look again and again; a database that is away is waited for.

        `failed` is called with any other error, once for several alike.
        """
        said = ""
        while True:
            try:
                await self.look()
                said = ""
            except UnavailableError:
                pass
            except Exception as error:  # noqa: BLE001 - it must not end in silence
                if said != repr(error):
                    failed(error)
                said = repr(error)
            await asyncio.sleep(_LOOK_S)


@contextlib.asynccontextmanager
async def followed(
    pool: Pool, keyring: Keyring, failed: Callable[[Exception], None]
) -> AsyncGenerator[None]:
    """Drop the keys of erased users for as long as the block lasts; `failed` as in `follow`."""
    erased = ErasedKeys(pool, keyring)
    task = asyncio.create_task(erased.follow(failed), name="erased keys")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
