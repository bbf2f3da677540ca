"""Retention: erases users some days after their deletion, and purges the quarantine.

Off unless it is set. A user counts as deleted for as long as the newest of their events, in
effective order, is a deletion; the days begin when that occurred, or when it was recorded if that
is later, so that a sender's wrong clock does not erase too early.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import structlog

from eventstore.audit import Act, Actor
from eventstore.errors import UnavailableError
from eventstore.events import Stream
from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine

_SQL = statements.load("projections.project")
_AT_ONCE = 100
_SWEEP_S = 600.0
_BY = Actor("service", "retention")
_log = structlog.stdlib.get_logger("userlog.retention")


class Days(NamedTuple):
    """After how many days users are erased and the quarantine purged; 0: never."""

    deleted_users: int = 0
    quarantine: int = 0


class Swept(NamedTuple):
    """How many users were erased, and how much of the quarantine purged."""

    erased: int
    purged: int


def _now() -> datetime:
    return datetime.now(UTC)


class Retention:
    """Sweeps every ten minutes until stopped, if any days are set."""

    def __init__(
        self,
        log: EventLog,
        quarantine: Quarantine,
        days: Days,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._log = log
        self._quarantine = quarantine
        self._days = days
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; idempotent."""
        if self._task is None and any(self._days):
            self._task = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """End; what was begun is whole or not there. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except UnavailableError as error:
                _log.warning("retention waits for the database", problem=str(error))
            except Exception as error:  # noqa: BLE001 - it must not end in silence
                _log.error("retention stands still", problem=type(error).__name__, exc_info=error)
            await asyncio.sleep(_SWEEP_S)

    async def sweep(self) -> Swept:
        """Erase and purge what is due by now."""
        now = self._clock()
        erased = purged = 0
        if self._days.deleted_users:
            erased = await self._erase(now - timedelta(days=self._days.deleted_users))
        if self._days.quarantine:
            before = now - timedelta(days=self._days.quarantine)
            if due := await self._quarantine.count(before):
                # First, so that nothing is gone without being accounted for.
                reason = f"last seen {self._days.quarantine} days ago"
                about: dict[str, str | int] = {"deliveries": due}
                await self._log.audit.write(Act("quarantine purge", _BY, reason, about))
                purged = await self._quarantine.purge(before)
        if erased or purged:
            _log.info("retention", users_erased=erased, quarantine_purged=purged)
        return Swept(erased, purged)

    async def _erase(self, before: datetime) -> int:
        reason = f"deleted {self._days.deleted_users} days ago"
        erased = 0
        for partition in range(self._log.partitions):
            done, full = 1, True
            while done and full:
                async with self._log.connection() as connection:
                    rows = await connection.fetch(
                        _SQL["deleted_before"], partition, before, _AT_ONCE
                    )
                done, full = 0, len(rows) == _AT_ONCE
                for row in rows:
                    stream = Stream(
                        partition, row["stream_id"], row["application_id"], row["user_id"]
                    )
                    # Not one who was restored by an event that is not projected yet.
                    known = row["projected"]
                    found = await self._log.erase(stream, _BY, reason, if_none_after=known)
                    done += found.position is not None
                erased += done
        return erased
