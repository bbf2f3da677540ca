"""The calls of `append()` and `erase()`, the only ways to change the log.

Both are in schema.sql: append() numbers events, drops duplicates and extends the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from eventstore.errors import database_errors
from eventstore.events import Appended, Outcome, Position
from eventstore.postgres import statements
from eventstore.sealing.current_key import with_current_key
from eventstore.sealing.keys import new_key_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

    from eventstore.events import Stream
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey
    from eventstore.sealing.seal import SealedEvent

# None: the user's key is not the one that the event was sealed with, so it is not in the log.
Answer: TypeAlias = Appended | None

_SQL = statements.load("eventstore")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_ERASURE = b"erased"


async def append_batch(
    source: Pool | Connection, master_key: MasterKey, partition: int, batch: Sequence[SealedEvent]
) -> list[Answer]:
    """Append in one round trip; return an answer for each event, in order.

    The driver's errors come as they are: who runs batches decides what they mean for each event.
    MasterKeyMovedError if the log is written with a master key that is not held.
    """
    *columns, recorded_ats, _, _ = map(list, zip(*batch, strict=True))
    new = {one.key.key_id: one for one in batch if not one.key.stored}.values()

    async def call() -> asyncpg.Record | None:
        current = master_key.current
        if any(one.key.wrapped_by != current for one in new):
            return None
        return await source.fetchrow(
            _SQL["append"],
            partition,
            current,
            recorded_ats if any(recorded_ats) else None,
            [one.stream_id for one in new],
            [one.stream.application_id for one in new],
            [one.stream.user_id for one in new],
            [one.key_id for one in new],
            [one.key.wrapped for one in new],
            *columns,
        )

    row = await with_current_key(source, partition, master_key, call)
    if row is None:  # the log has moved to another master key since they were sealed
        return [None] * len(batch)
    answers: list[Answer] = []
    for name, number in zip(row["outcomes"], row["positions"], strict=True):
        outcome = _OUTCOMES.get(name)  # none for `stale`
        answers.append(Appended(outcome, Position(partition, number)) if outcome else None)
    return answers


class Erasing(NamedTuple):
    """What erase() is called with; `audit` is the sealed row of the audit."""

    stream: Stream
    recorded_at: datetime | None
    if_none_after: int | None
    audit: bytes


async def erase(pool: Pool, master_key: MasterKey, what: Erasing) -> tuple[int | None, int]:
    """Put a tombstone in a key's place, with a row of the audit.

    Return the event's number, None if there was nothing to do, and how many rows of the quarantine
    are gone. The tombstone names what arrives later, and opens nothing.
    """
    stream = what.stream

    async def call() -> tuple[int | None, int]:
        naming = master_key.tombstone_key(stream.stream_id.bytes)
        row = await pool.fetchrow(
            _SQL["erase"],
            stream.partition,
            master_key.current,
            what.recorded_at,
            stream.stream_id,
            new_key_id(),
            naming.identity(_ERASURE),
            naming.digest(_ERASURE),
            stream.application_id,
            stream.user_id,
            what.if_none_after,
            what.audit,
        )
        assert row is not None  # noqa: S101 - a function returns one
        return row["erased_position"], row["quarantined"] or 0

    with database_errors():
        return await with_current_key(pool, stream.partition, master_key, call)
