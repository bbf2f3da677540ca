"""Questions and answers: a user now, at any moment, as known at any moment, and their history."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from eventstore import sql, store
from eventstore.errors import database_errors
from eventstore.events import Kind, Position
from projections import set_aside
from projections.folding import Folder
from projections.history import Change, HistoryEntry, replaying
from projections.point_in_time import state_at
from projections.state import Lifecycle, encode_fields, order_key_after
from projections.turns import in_turns

if TYPE_CHECKING:
    import asyncpg

    from eventstore.events import Stream
    from eventstore.log import EventLog
    from projections.state import UserEvent

_SQL = sql.load("projections")
FOREVER = datetime.max.replace(tzinfo=UTC)
_WAIT_FIRST_S = 0.005
_WAIT_LONGEST_S = 0.2
_MARK = re.compile(r"([0-9a-f]{82})([0-9a-f]{1,15})")
"""An order key of 41 bytes, and a position."""

Order: TypeAlias = Literal["asc", "desc"]
Mark: TypeAlias = tuple[bytes, int]
"""The place of an entry in a history: its order key and the number of its position."""


class AsOf(msgspec.Struct, frozen=True):
    """The newest event, in effective order, that is in an answer."""

    position: str
    event_type: str
    occurred_at: str
    recorded_at: str


class Stale(msgspec.Struct, frozen=True):
    """The event that can't be projected, for which reason, and since when an answer lacks it."""

    position: str
    reason: str
    since: str


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is, or was, known about a user; `stale` if they are set aside."""

    application_id: str
    user_id: str
    company_id: int | None
    lifecycle: Lifecycle
    state: msgspec.Raw
    as_of: AsOf
    stale: Stale | None = None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one event changed.

    `stated_at` is there when the sender stated a time so far ahead that `occurred_at` is the time
    of recording instead.
    """

    position: str
    event_type: str
    occurred_at: str
    recorded_at: str
    late: bool
    summary: list[str]
    changes: list[Change]
    stated_at: str | None = None


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


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page of a user's history; `next` is what to give as `after` for the next page."""

    entries: list[Entry]
    next: str | None
    stale: Stale | None = None


class Lag(msgspec.Struct, frozen=True):
    """How far one generation of a partition has come; seconds since the oldest waiting event."""

    partition: int
    generation: int
    state: str
    active: bool
    head: int
    position: int
    lag_positions: int
    lag_s: float


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
        if state is None:
            return None
        raw = msgspec.Raw(encode_fields(state.fields))
        ids = stream.application_id, stream.user_id
        return User(*ids, state.company_id, state.lifecycle, raw, AsOf(*_place(state.last)))

    async def _user_now(self, stream: Stream) -> User | None:
        with database_errors():
            row = await self._log.pool.fetchrow(_SQL["user"], stream.partition, stream.stream_id)
        return None if row is None else user_of(row)

    async def stale(self, stream: Stream) -> Stale | None:
        """Return what keeps a user from being up to date in the read model, if anything does."""
        found = await set_aside.reason_for(self._log.pool, stream)
        return _stale(*found) if found else None

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
        _, entries = await in_turns(replaying(await in_turns(folder.reading(readable))))
        if page.order == "desc":
            entries.reverse()
        kept = [
            e for e in entries if e.event.occurred_at <= page.valid_at and page.follows(_mark(e))
        ]
        return _cut([(_entry(one), _mark(one)) for one in kept], page.limit)

    async def _history_now(self, stream: Stream, page: Page) -> History:
        order_key, position = page.after or (None, None)
        query = _SQL[f"history_{page.order}"]
        until = order_key_after(page.valid_at)
        args = (stream.partition, stream.stream_id, order_key, position, until, page.limit + 1)
        with database_errors():
            rows = await self._log.pool.fetch(query, *args)
        found = [
            (_stored_entry(row, stream.partition), (row["order_key"], row["position"]))
            for row in rows
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
        return [_lag(row, now) for row in found]


def _lag(row: asyncpg.Record, now: datetime) -> Lag:
    waiting: datetime | None = row["oldest_waiting"]
    return Lag(
        partition=row["partition"],
        generation=row["generation"],
        state=row["state"],
        active=row["active"],
        head=row["head"],
        position=row["position"],
        lag_positions=row["head"] - row["position"],
        lag_s=max(0.0, (now - waiting).total_seconds()) if waiting else 0.0,
    )


def user_of(row: asyncpg.Record) -> User:
    """Show a row of users, joined with what keeps them set aside."""
    stale: Stale | None = None
    if row["stale_position"] is not None:
        position = Position(row["partition"], row["stale_position"])
        stale = _stale(position, row["stale_reason"], row["stale_since"])
    return User(
        row["application_id"],
        row["user_id"],
        row["company_id"],
        row["lifecycle"],
        msgspec.Raw(row["state"].encode()),
        AsOf(**_about(row, row["partition"])),
        stale,
    )


def _stale(position: Position, reason: str, since: datetime) -> Stale:
    return Stale(str(position), reason, rfc3339(since))


def _about(row: asyncpg.Record, partition: int) -> dict[str, Any]:
    return {
        "position": str(Position(partition, row["position"])),
        "event_type": Kind(row["kind"]).label,
        "occurred_at": rfc3339(row["occurred_at"]),
        "recorded_at": rfc3339(row["recorded_at"]),
    }


def _place(event: UserEvent) -> tuple[str, str, str, str]:
    times = rfc3339(event.occurred_at), rfc3339(event.recorded_at)
    return str(event.position), event.kind.label, *times


def rfc3339(time: datetime) -> str:
    """Write a time in UTC as answers show it: to the millisecond, with Z."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _stored_entry(row: asyncpg.Record, partition: int) -> Entry:
    return Entry(
        **_about(row, partition),
        late=row["late"],
        summary=msgspec.json.decode(row["summary"], type=list[str]),
        changes=msgspec.json.decode(row["changes"], type=list[Change]),
        stated_at=_maybe(row["stated_at"]),
    )


def _entry(entry: HistoryEntry) -> Entry:
    stated_at = _maybe(entry.event.stated_at)
    return Entry(*_place(entry.event), entry.late, entry.summary, entry.changes, stated_at)


def _maybe(time: datetime | None) -> str | None:
    return rfc3339(time) if time else None


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
