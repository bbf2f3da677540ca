"""Questions and answers: a user now, at any moment, as known at any moment, and their history."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from eventstore import sql
from eventstore.errors import database_errors
from eventstore.events import Kind, Position
from projections.history import Change, HistoryEntry, replay
from projections.state import Lifecycle, encode_fields, read_event

if TYPE_CHECKING:
    import asyncpg

    from eventstore.events import RecordedEvent, Stream
    from eventstore.log import EventLog
    from projections.state import UserEvent

_SQL = sql.load("projections")
_FOREVER = datetime.max.replace(tzinfo=UTC)
_WAIT_FIRST_S = 0.005
_WAIT_LONGEST_S = 0.2
_MARK = re.compile(r"([0-9a-f]{82})([0-9a-f]{1,15})")
"""An order key of 41 bytes, and a position."""

Order: TypeAlias = Literal["asc", "desc"]


class AsOf(msgspec.Struct, frozen=True):
    """The newest event, in effective order, that is in an answer."""

    position: str
    event_type: str
    occurred_at: str
    recorded_at: str


class User(msgspec.Struct, frozen=True):
    """What is, or was, known about a user."""

    application_id: str
    user_id: str
    company_id: int | None
    lifecycle: Lifecycle
    state: msgspec.Raw
    as_of: AsOf


class Entry(msgspec.Struct, frozen=True):
    """What one event changed."""

    position: str
    event_type: str
    occurred_at: str
    recorded_at: str
    late: bool
    summary: list[str]
    changes: list[Change]


class History(msgspec.Struct, frozen=True):
    """A page of a user's history; `next` is what to give as `after` for the next page."""

    entries: list[Entry]
    next: str | None


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

    async def user(self, stream: Stream) -> User | None:
        """Return the user as they are now; None if the read model has none."""
        with database_errors():
            row = await self._log.pool.fetchrow(_SQL["user"], stream.partition, stream.stream_id)
        if row is None:
            return None
        state = msgspec.Raw(row["state"].encode())
        as_of = AsOf(**_about(row, stream.partition))
        return _user(stream, row["company_id"], row["lifecycle"], state, as_of)

    async def user_at(
        self, stream: Stream, valid_at: datetime | None, known_at: datetime | None
    ) -> User | None:
        """Return the user as they were at `valid_at`, by what was recorded by `known_at`.

        Both ends are inclusive. None if nothing had happened, or was known, by then.
        """
        events = await self._log.read_user(stream, valid_at or _FOREVER, known_at or _FOREVER)
        state, _ = _replay(events)
        if state is None:
            return None
        last = state.last
        as_of = AsOf(*_place(last))
        raw = msgspec.Raw(encode_fields(state.fields))
        return _user(stream, state.company_id, state.lifecycle, raw, as_of)

    async def history(
        self, stream: Stream, *, order: Order = "asc", limit: int = 100, after: str | None = None
    ) -> History:
        """Return a page in effective order; ValueError if `after` is none of ours."""
        order_key, position = (None, None) if after is None else parse_mark(after)
        query = _SQL[f"history_{order}"]
        args = (stream.partition, stream.stream_id, order_key, position, limit + 1)
        with database_errors():
            found = await self._log.pool.fetch(query, *args)
        page = found[:limit]
        more = len(found) > limit
        mark = _after(page[-1]["order_key"], page[-1]["position"]) if more else None
        return History([_stored_entry(row, stream.partition) for row in page], mark)

    async def history_at(
        self,
        stream: Stream,
        known_at: datetime,
        *,
        order: Order = "asc",
        limit: int = 100,
        after: str | None = None,
    ) -> History:
        """Return the same as it stood when nothing recorded after `known_at` was known."""
        _, entries = _replay(await self._log.read_user(stream, _FOREVER, known_at))
        keys = [(entry.event.order_key, entry.event.position.number) for entry in entries]
        if order == "desc":
            entries, keys = entries[::-1], keys[::-1]
        start = 0
        if after is not None:
            mark = parse_mark(after)
            start = sum(1 for key in keys if (key <= mark if order == "asc" else key >= mark))
        page = entries[start : start + limit]
        more = start + limit < len(entries)
        return History(
            [_entry(one) for one in page], _after(*keys[start + limit - 1]) if more else None
        )

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


def _replay(events: list[RecordedEvent]) -> tuple[Any, list[HistoryEntry]]:
    return replay(read_event(event) for event in events if event.payload is not None)


def _user(
    stream: Stream, company_id: int | None, lifecycle: Lifecycle, state: msgspec.Raw, as_of: AsOf
) -> User:
    return User(stream.application_id, stream.user_id, company_id, lifecycle, state, as_of)


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
    )


def _entry(entry: HistoryEntry) -> Entry:
    return Entry(*_place(entry.event), entry.late, entry.summary, entry.changes)


def _after(order_key: bytes, position: int) -> str:
    return f"{order_key.hex()}{position:x}"


def parse_mark(text: str) -> tuple[bytes, int]:
    """Read a page's `next`; ValueError for anything else."""
    found = _MARK.fullmatch(text)
    if not found:
        msg = "give back `next` of the page before, unchanged"
        raise ValueError(msg)
    return bytes.fromhex(found[1]), int(found[2], 16)
