"""The scrubber: proves a few users at a time, for ever, so that no damage stays unseen for long."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from eventstore.errors import LogError, UnavailableError
from eventstore.events import Position
from eventstore.postgres import statements
from projections.fold.poison import PoisonError
from projections.fold.timeslice import SLICE_S
from projections.prove.proof import prove
from projections.prove.ranges import Range
from projections.query.formats import Time, rfc3339

if TYPE_CHECKING:
    from eventstore.log import EventLog
    from projections.prove.differences import Difference, Differences

_SQL = statements.load("projections.prove")
# So few that the projector, which runs in the same process, is not held up by them.
_USERS = 10
# No request waits for the scrubber, and one that comes meanwhile meets it rarely.
_REST_S = 4 * SLICE_S
_FIRST = uuid.UUID(int=0)
_LAST = uuid.UUID(int=(1 << 128) - 1)
_log = structlog.stdlib.get_logger("userlog.scrubber")


class Scrubbed(msgspec.Struct, frozen=True):
    """What has been proven since the process began."""

    users_proven: int
    differences: int
    last_difference_at: Time | None


async def scrub(
    log: EventLog, partition: int, first: uuid.UUID, users: int = _USERS
) -> Differences:
    """Prove the next users of a partition from a stream id on."""
    async with log.connection() as connection:
        last = await connection.fetchval(_SQL["scrub_last"], partition, first, users)
    return await prove(log, Range(partition, first, last or _LAST), rest_s=_REST_S)


class Scrubber:
    """Proves a random range of users every `interval_s` seconds until stopped; 0: never."""

    def __init__(self, log: EventLog, *, interval_s: float) -> None:
        self._log = log
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        # None where it has not been started: another process may be the one that scrubs.
        self.scrubbed: Scrubbed | None = None

    def start(self) -> None:
        """Begin; idempotent."""
        if self._task is None and self._interval_s:
            self._stopped.clear()
            self.scrubbed = self.scrubbed or Scrubbed(0, 0, None)
            self._task = asyncio.create_task(self._run(), name="scrubber")

    async def stop(self) -> None:
        """End, whatever is in progress; idempotent."""
        if self._task is not None:
            # A cancellation alone can get lost: a connection that breaks meanwhile hides it.
            self._stopped.set()
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        trouble = ""
        while not self._stopped.is_set():
            trouble = await self._attempt(trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self._interval_s)

    async def _attempt(self, logged: str) -> str:
        """Scrub once; return what stands in the way, logged unless it was `logged` before."""
        try:
            await self.scrub_some()
        except UnavailableError:
            return "unavailable"  # the projector logs it
        except (LogError, PoisonError) as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001 - it must not end in silence
            trouble = type(error).__name__
        else:
            return ""
        if trouble != logged:
            _log.error("scrubber can't prove some users", problem=trouble)
        return trouble

    async def scrub_some(self) -> None:
        """Prove some users of a partition; which, is chance."""
        partition = random.randrange(self._log.partitions)  # noqa: S311 - no secret
        try:
            found = await scrub(self._log, partition, uuid.UUID(int=random.getrandbits(128)))
            if not found.users:  # behind the last one
                found = await scrub(self._log, partition, _FIRST)
        except PoisonError:  # it is no event's fault if the master key is the wrong one
            async with self._log.connection() as connection:
                await self._log.check_master_key(connection)
            raise
        self.record(found)
        # For monitoring, which may ask another process.
        async with self._log.connection() as connection:
            await connection.execute(_SQL["scrubbed"], partition, found.users, found.differing)

    def record(self, found: Differences) -> None:
        """Count and log what was found."""
        now = rfc3339(datetime.now(UTC))
        so_far = self.scrubbed or Scrubbed(0, 0, None)
        self.scrubbed = Scrubbed(
            so_far.users_proven + found.users,
            so_far.differences + found.differing,
            now if found.differing else so_far.last_difference_at,
        )
        for one in found.first:
            _log_difference(one)


def _log_difference(one: Difference) -> None:
    position = Position(one.partition, one.position) if one.position else None
    _log.error(
        "read model differs from the log",
        position=str(position) if position else None,
        table=one.table,
        what=one.what,
        fields=one.fields,
    )
