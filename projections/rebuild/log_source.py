"""How a process that is not the service opens the log, for work on whole tables."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from eventstore.log import EventLog
from eventstore.postgres import database
from eventstore.sealing.keys import MasterKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_CONNECTIONS = 5
"""A rebuild's lock, what it holds, a snapshot, a batch, and one to look at its progress."""


class Source(msgspec.Struct, frozen=True):
    """What it takes to open the log in another process."""

    url: str
    master_key: bytes
    previous_master_key: bytes | None
    timeout_s: float

    def master(self) -> MasterKey:
        """Make the master key ready for use."""
        return MasterKey(self.master_key, self.previous_master_key)

    def __repr__(self) -> str:
        """Show no secret."""
        return "Source(…)"


@contextlib.asynccontextmanager
async def opened(source: Source) -> AsyncGenerator[EventLog]:
    """Open the log as its owner, with connections of its own and no limit on a statement's time."""
    pool = await database.open_pool(
        source.url, size=_CONNECTIONS, timeout_s=source.timeout_s, owner=True
    )
    try:
        yield await EventLog.open(pool, source.master())
        await pool.close()
    finally:
        pool.terminate()
