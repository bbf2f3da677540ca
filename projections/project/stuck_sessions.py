"""Stuck sessions: taking a partition over from a projector that is frozen.

The server ends a session that is idle in a transaction by itself, but not one whose client froze
between two messages of a statement, or with a socket full of its answer. A projector that finds a
checkpoint locked looks for such sessions, and ends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from eventstore.postgres import statements

if TYPE_CHECKING:
    from eventstore.log import EventLog

_SQL = statements.load("projections.project")
_log = structlog.stdlib.get_logger("userlog.projector")


async def end_stuck_sessions(log: EventLog) -> int:
    """End the service's sessions that hold what they wrote and have a client that is frozen.

    That is one which has kept its session waiting for the pool's takeover time.
    """
    async with log.connection() as connection:
        ended: int = await connection.fetchval(_SQL["frozen_end"])
    if ended:
        _log.warning("frozen session ended", sessions=ended)
    return ended
