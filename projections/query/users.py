"""A user now, at any moment, as known at any moment, and their history."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from eventstore import read
from eventstore.errors import database_errors
from eventstore.group_commit import SharedReads
from eventstore.postgres import statements
from projections.fold.events import ORDER_KEY_BYTES, order_key_of, parts_of
from projections.fold.folder import Folder
from projections.fold.history import replaying
from projections.fold.timeslice import Timeslices
from projections.project import checkpoints, parked
from projections.query.point_in_time import state_at
from projections.query.views import (
    Entry,
    History,
    entry_of,
    folded_entry,
    folded_user,
    key_of,
    stale_since,
    user_of,
)
from projections.sealed import open_entry

if TYPE_CHECKING:
    from eventstore.events import Position, Stream
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from projections.fold.history import HistoryEntry
    from projections.query.views import Stale, User

_SQL = statements.load("projections.query")
PAGE_BYTES_MAX = 4 << 20
FOREVER = datetime.max.replace(tzinfo=UTC)
_WAIT_FIRST_S = 0.005
_WAIT_LONGEST_S = 0.2
_encode = msgspec.json.Encoder(order="sorted").encode
_PAGE_KEY = "(?:[0-9a-f]{{2}}){{{},{}}}".format(*ORDER_KEY_BYTES)
PAGE_KEY_PATTERN = f"^{_PAGE_KEY}$"

Order: TypeAlias = Literal["asc", "desc"]
# Where an entry stands in a history: its order key, of which a user has each once.
PageKey: TypeAlias = bytes


class Page(msgspec.Struct, frozen=True):
    """Which part of a history to return, in effective order.

    Only entries that had occurred by `valid_at`, inclusive, and only those that follow `after`,
    the page key of the page before. At most `limit` of them, and no more than have `bytes_max`
    bytes of changes, but one at least.
    """

    order: Order = "asc"
    limit: int = 100
    after: PageKey | None = None
    valid_at: datetime = FOREVER
    bytes_max: int = PAGE_BYTES_MAX

    def follows(self, key: PageKey) -> bool:
        """Say whether an entry comes after the page before."""
        if self.after is None:
            return True
        return key > self.after if self.order == "asc" else key < self.after


FIRST_PAGE = Page()


class NotReachedError(Exception):
    """The read model has not reached the position asked for in the time allowed."""


class ReadModel:
    """Answers from the active generation, or from the log when a moment is asked for."""

    def __init__(self, log: EventLog, pool: Pool) -> None:
        self._log = log
        self._pool = pool
        self._reached = SharedReads("reached", partial(checkpoints.active, pool))

    async def user(
        self, stream: Stream, valid_at: datetime | None = None, known_at: datetime | None = None
    ) -> User | None:
        """Return the user as they were at `valid_at`, by what was recorded by `known_at`.

        Both ends are inclusive; without both, as they are now in the read model. None if nothing
        had happened, or was known, by then.
        """
        if valid_at is None and known_at is None:
            return await self._user_now(stream)
        moments = (valid_at or FOREVER, known_at or FOREVER)
        state = await state_at(self._log, self._pool, stream, *moments)
        return None if state is None else folded_user(stream, state)

    async def _user_now(self, stream: Stream) -> User | None:
        with database_errors():
            row = await self._pool.fetchrow(_SQL["user"], stream.partition, stream.stream_id)
        return None if row is None else user_of(row, self._log.keyring)

    async def stale(self, stream: Stream) -> Stale | None:
        """Return why a user is not up to date in the read model, if they are parked."""
        found = await parked.reason_for(self._pool, stream)
        return stale_since(*found) if found else None

    async def history(
        self, stream: Stream, known_at: datetime | None = None, page: Page = FIRST_PAGE
    ) -> History:
        """Return a page of the history, as it stood when nothing recorded later was known.

        With `known_at`, all that was recorded of the user by then is read; PoisonError if an event
        of it can't be.
        """
        if known_at is None:
            # First, so that a user who is parked meanwhile is not shown as if they were up to date.
            stale = await self.stale(stream)
            return msgspec.structs.replace(await self._history_now(stream, page), stale=stale)
        rows = await self._log.rows_of_stream(stream, known_at)
        folder = Folder(stream.partition, self._log.keyring)
        readable = [row for row in rows if read.has_payload(row)]
        timeslices = Timeslices()
        _, entries = await timeslices.run(replaying(await timeslices.run(folder.reading(readable))))
        if page.order == "desc":
            entries.reverse()
        until = [e for e in entries if e.event.occurred_at <= page.valid_at]
        following = [e for e in until if page.follows(e.event.order_key)]
        shown = _within(following, page)
        after = shown[-1].event.order_key if shown else b""
        return _page([folded_entry(e) for e in shown], after, len(following))

    async def _history_now(self, stream: Stream, page: Page) -> History:
        query = _SQL[f"history_{page.order}"]
        after = parts_of(page.after) if page.after else (None, None, None)
        args = (stream.partition, stream.stream_id, *after, page.valid_at, page.limit + 1)
        with database_errors():
            rows = await self._pool.fetch(query, *args, page.bytes_max)
        if not rows:
            return History([], None)
        key = key_of(rows[0], self._log.keyring)
        found: list[Entry] = []
        size = 0
        for row in rows[: page.limit]:
            opened = open_entry(key, row)
            size += memoryview(opened.changes).nbytes
            if found and size > page.bytes_max:
                break
            found.append(entry_of(row, opened, stream.partition))
        last = rows[len(found) - 1]
        order_key = order_key_of(last["occurred_at"], last["kind"], last["tie_break"])
        return _page(found, order_key, rows[0]["found"])

    async def has_reached(self, position: Position) -> bool:
        """Say whether the read model has reached a position."""
        with database_errors():
            found = await self._reached.get(position.partition)
        return found is not None and found[1] >= position

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """Return when the read model has reached a position; NotReachedError after the timeout."""
        pause_s = _WAIT_FIRST_S
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self.has_reached(position):
            if asyncio.get_running_loop().time() >= deadline:
                raise NotReachedError(f"the read model has not reached {position}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _WAIT_LONGEST_S)


def _within(following: list[HistoryEntry], page: Page) -> list[HistoryEntry]:
    """Return the entries of a page: those that the read model would show."""
    size = 0
    for count, entry in enumerate(following[: page.limit]):
        size += len(_encode(entry.changes))
        if count and size > page.bytes_max:
            return following[:count]
    return following[: page.limit]


def _page(shown: list[Entry], last: PageKey, there_are: int) -> History:
    """Make a page of some entries, the first of those that there are; `last` is where it ends."""
    return History(shown, last.hex() if there_are > len(shown) else None)


def parse_page_key(text: str) -> PageKey:
    """Read a page's `next`; ValueError for anything else."""
    if not re.fullmatch(_PAGE_KEY, text):
        msg = "give back `next` of the page before, unchanged"
        raise ValueError(msg)
    return bytes.fromhex(text)
