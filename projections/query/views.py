"""What answers look like, and how rows of the read models and folded users become them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from eventstore.events import Kind, Position
from projections.fold.history import Change
from projections.fold.state import Lifecycle, encode_fields

if TYPE_CHECKING:
    import asyncpg

    from eventstore.events import Stream
    from projections.fold.history import HistoryEntry
    from projections.fold.state import UserEvent, UserState

Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""As `rfc3339` writes it."""
Place: TypeAlias = Annotated[str, Meta(pattern="^[0-9]{1,4}:[0-9]{1,18}$", examples=["0:42"])]
"""A position, as text."""
EventType: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [k.label for k in Kind]})]
Json: TypeAlias = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
"""An object that is encoded already."""


class AsOf(msgspec.Struct, frozen=True):
    """The newest event, in effective order, that is in an answer."""

    position: Place
    event_type: EventType
    occurred_at: Time
    recorded_at: Time


class Stale(msgspec.Struct, frozen=True):
    """The event that can't be projected, for which reason, and since when an answer lacks it."""

    position: Place
    reason: str
    since: Time


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is, or was, known about a user; `stale` if they are set aside."""

    application_id: str
    user_id: str
    company_id: int | None
    lifecycle: Lifecycle
    state: Json
    as_of: AsOf
    stale: Stale | None = None


class Users(msgspec.Struct, frozen=True):
    """A page of users; `next` is what to give as `after` for the next page."""

    users: list[User]
    next: str | None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one event changed.

    `stated_at` is there when the sender stated a time so far ahead that `occurred_at` is the time
    of recording instead.
    """

    position: Place
    event_type: EventType
    occurred_at: Time
    recorded_at: Time
    late: bool
    summary: list[str]
    changes: list[Change]
    stated_at: Time | None = None


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


def rfc3339(time: datetime) -> str:
    """Write a time in UTC as answers show it: to the millisecond, with Z."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def user_of(row: asyncpg.Record) -> User:
    """Show a row of users, joined with what keeps them set aside."""
    stale: Stale | None = None
    if row["stale_position"] is not None:
        position = Position(row["partition"], row["stale_position"])
        stale = stale_since(position, row["stale_reason"], row["stale_since"])
    return User(
        row["application_id"],
        row["user_id"],
        row["company_id"],
        row["lifecycle"],
        msgspec.Raw(row["state"].encode()),
        AsOf(**_about(row, row["partition"])),
        stale,
    )


def folded_user(stream: Stream, state: UserState) -> User:
    """Show a user as they were folded."""
    raw = msgspec.Raw(encode_fields(state.fields))
    ids = stream.application_id, stream.user_id
    return User(*ids, state.company_id, state.lifecycle, raw, AsOf(*_place(state.last)))


def stale_since(position: Position, reason: str, since: datetime) -> Stale:
    """Show what keeps a user set aside."""
    return Stale(str(position), reason, rfc3339(since))


def entry_of(row: asyncpg.Record, partition: int) -> Entry:
    """Show a row of history."""
    return Entry(
        **_about(row, partition),
        late=row["late"],
        summary=msgspec.json.decode(row["summary"], type=list[str]),
        changes=msgspec.json.decode(row["changes"], type=list[Change]),
        stated_at=_maybe(row["stated_at"]),
    )


def folded_entry(entry: HistoryEntry) -> Entry:
    """Show an entry as it was folded."""
    stated_at = _maybe(entry.event.stated_at)
    return Entry(*_place(entry.event), entry.late, entry.summary, entry.changes, stated_at)


def lag_of(row: asyncpg.Record, now: datetime) -> Lag:
    """Show how far a checkpoint is."""
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


def _maybe(time: datetime | None) -> str | None:
    return rfc3339(time) if time else None
