"""All users of a log, or of some applications, as they are now, a page at a time."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.query.views import user_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from projections.query.views import User

_SQL = statements.load("projections.query")
_PAGE_ROWS = 1_000
_FIRST = uuid.UUID(int=0)


async def count(pool: Pool, applications: Collection[str]) -> int:
    """Return about how many users there are; no applications means all."""
    with database_errors():
        found: int = await pool.fetchval(_SQL["users_counted"], list(applications) or None)
    return found


async def every_user(
    log: EventLog, pool: Pool, applications: Collection[str]
) -> AsyncIterator[User]:
    """Yield the users, in no order that means anything; no applications means all.

    Who is new or changes meanwhile may be there as they were before or after it; no user is there
    twice.
    """
    wanted = frozenset(applications)
    for partition in range(log.partitions):
        after, left = _FIRST, True
        while left:
            with database_errors():
                rows = await pool.fetch(_SQL["users_page"], partition, after, _PAGE_ROWS)
            for row in rows:
                if not wanted or row["application_id"] in wanted:
                    yield user_of(row, log.keyring)
            left = len(rows) == _PAGE_ROWS
            after = rows[-1]["stream_id"] if rows else after
