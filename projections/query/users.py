"""Questions and answers: a user now, at any moment, as known at any moment, and their history."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from eventstore import store
from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.fold.folder import Folder
from projections.fold.history import replaying
from projections.fold.state import order_key_after
from projections.fold.timeslice import Turns
from projections.project import parked
from projections.query.point_in_time import state_at
from projections.query.views import (
    Entry,
    History,
    entry_of,
    folded_entry,
    folded_user,
    lag_of,
    stale_since,
    user_of,
)

if TYPE_CHECKING:
    from eventstore.events import Position, Stream
    from eventstore.log import EventLog
    from projections.fold.history import HistoryEntry
    from projections.query.views import Lag, Stale, User

_SQL = statements.load("projections")
FOREVER = datetime.max.replace(tzinfo=UTC)
_WAIT_FIRST_S = 0.005
_WAIT_LONGEST_S = 0.2
_MARK = re.compile(r"([0-9a-f]{82})([0-9a-f]{1,15})")
"""An order key of 41 bytes, and a position."""

Order: TypeAlias = Literal["asc", "desc"]
Mark: TypeAlias = tuple[bytes, int]
"""The place of an entry in a history: its order key and the number of its position."""


class Page(msgspec.Struct, frozen=True):
    """Which part of a history to return, in effective order.

    Only entries that had occurred by `valid_at`, inclusive, and only those that follow `after`,
    the mark of the page before.
    """

    order: Order = "asc"
    limit: int = 100
    after: Mark | None = None
    valid_at: datetime = FOREVER

    def follows(self, mark: Mark) -> bool:
        """Say whether an entry comes after the page before."""
        if self.after is None:
            return True
        return mark > self.after if self.order == "asc" else mark < self.after


FIRST_PAGE = Page()


class NotReachedError(Exception):
    """The read model has not reached the position asked for in the time allowed."""


class ReadModel:
    """Answers from the active generation, or from the log when a moment is asked for."""

    def __init__(self, log: EventLog) -> None:
        """The log says where users are."""
        self._log = log

    async def user(
        self, stream: Stream, valid_at: datetime | None = None, known_at: datetime | None = None
    ) -> User | None:
        """Return the user as they were at `valid_at`, by what was recorded by `known_at`.

        Both ends are inclusive; without both, as they are now in the read model. None if nothing
        had happened, or was known, by then.
        """
        if valid_at is None and known_at is None:
            return await self._user_now(stream)
        state = await state_at(self._log, stream, valid_at or FOREVER, known_at or FOREVER)
        return None if state is None else folded_user(stream, state)

    async def _user_now(self, stream: Stream) -> User | None:
        with database_errors():
            row = await self._log.pool.fetchrow(_SQL["user"], stream.partition, stream.stream_id)
        return None if row is None else user_of(row)

    async def stale(self, stream: Stream) -> Stale | None:
        """Return what keeps a user from being up to date in the read model, if anything does."""
        found = await parked.reason_for(self._log.pool, stream)
        return stale_since(*found) if found else None

    async def history(
        self, stream: Stream, known_at: datetime | None = None, page: Page = FIRST_PAGE
    ) -> History:
        """Return a page of the history, as it stood when nothing recorded later was known.

        With `known_at`, all that was recorded of the user by then is read; PoisonError if an event
        of it can't be.
        """
        if known_at is None:
            # First, so that a user who is set aside meanwhile is not shown as if nothing were.
            stale = await self.stale(stream)
            return msgspec.structs.replace(await self._history_now(stream, page), stale=stale)
        rows = await store.rows_of_stream(self._log.pool, stream, known_at)
        folder = Folder(stream.partition, self._log.keyring)
        readable = [row for row in rows if store.has_payload(row)]
        turns = Turns()
        _, entries = await turns.do(replaying(await turns.do(folder.reading(readable))))
        if page.order == "desc":
            entries.reverse()
        kept = [
            e for e in entries if e.event.occurred_at <= page.valid_at and page.follows(_mark(e))
        ]
        return _cut([(folded_entry(one), _mark(one)) for one in kept], page.limit)

    async def _history_now(self, stream: Stream, page: Page) -> History:
        order_key, position = page.after or (None, None)
        query = _SQL[f"history_{page.order}"]
        until = order_key_after(page.valid_at)
        args = (stream.partition, stream.stream_id, order_key, position, until, page.limit + 1)
        with database_errors():
            rows = await self._log.pool.fetch(query, *args)
        found = [
            (entry_of(row, stream.partition), (row["order_key"], row["position"])) for row in rows
        ]
        return _cut(found, page.limit)

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """Return when the read model has reached a position; NotReachedError after the timeout."""
        pause_s = _WAIT_FIRST_S
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            with database_errors():
                reached: int | None = await self._log.pool.fetchval(
                    _SQL["checkpoint"], position.partition
                )
            if reached is not None and reached >= position.number:
                return
            if asyncio.get_running_loop().time() >= deadline:
                msg = f"the read model is at {position.partition}:{reached}, not yet at {position}"
                raise NotReachedError(msg)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _WAIT_LONGEST_S)

    async def lags(self) -> list[Lag]:
        """Return how far every generation has come in every partition."""
        with database_errors():
            found = await self._log.pool.fetch(_SQL["status"])
        now = datetime.now(UTC)
        return [lag_of(row, now) for row in found]


def _mark(entry: HistoryEntry) -> Mark:
    return entry.event.order_key, entry.event.position.number


def _cut(found: list[tuple[Entry, Mark]], limit: int) -> History:
    """Cut a page off entries of which there may be more."""
    following = None
    if len(found) > limit:
        order_key, position = found[limit - 1][1]
        following = f"{order_key.hex()}{position:x}"
    return History([entry for entry, _ in found[:limit]], following)


def parse_mark(text: str) -> Mark:
    """Read a page's `next`; ValueError for anything else."""
    found = _MARK.fullmatch(text)
    if not found:
        msg = "give back `next` of the page before, unchanged"
        raise ValueError(msg)
    return bytes.fromhex(found[1]), int(found[2], 16)
