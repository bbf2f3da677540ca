"""Opening the log in another process, for work on whole tables."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from eventstore.log import EventLog
from eventstore.postgres.pool import open_owner_pool
from eventstore.postgres.sessions import SCHEMA
from eventstore.sealing.keys import MasterKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# A rebuild's lock, what it locks, a snapshot, a batch, and one to look at its progress.
_CONNECTIONS = 5


class LogSource(msgspec.Struct, frozen=True):
    """What it takes to open the log in another process."""

    url: str
    master_key: bytes
    previous_master_key: bytes | None
    timeout_s: float
    # Where the read models are; another one is filled by an upgrade, from a log that may be older.
    schema: str = SCHEMA

    def master(self) -> MasterKey:
        """Make the master key ready for use."""
        return MasterKey(self.master_key, self.previous_master_key)

    def __repr__(self) -> str:
        """Show no secret."""
        return "LogSource(…)"


@contextlib.asynccontextmanager
async def opened(source: LogSource) -> AsyncGenerator[EventLog]:
    """Open the log as its owner, with connections of its own and no limit on a statement's time."""
    pool = await open_owner_pool(
        source.url, size=_CONNECTIONS, timeout_s=source.timeout_s, schema=source.schema
    )
    open_log = EventLog.open if source.schema == SCHEMA else EventLog.open_older
    try:
        yield await open_log(pool, source.master())
        await pool.close()
    finally:
        pool.terminate()
