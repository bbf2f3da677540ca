"""Views: what answers hold, made from rows of the read models or from folded users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.events import Kind, Position
from projections.fold.history import Change
from projections.fold.state import Lifecycle, encode_fields, lifecycle_of
from projections.query.formats import EventType, JsonObject, PositionText, Time, rfc3339
from projections.sealed import SealedEntry, changes_of, open_user

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from eventstore.events import Stream
    from eventstore.sealing.columns import ColumnKey
    from eventstore.sealing.keyring import Keyring
    from projections.fold.events import UserEvent
    from projections.fold.history import HistoryEntry
    from projections.fold.state import UserState


class AsOf(msgspec.Struct, frozen=True):
    """The newest event, in effective order, that is in an answer."""

    position: PositionText
    event_type: EventType
    occurred_at: Time
    recorded_at: Time


class Stale(msgspec.Struct, frozen=True):
    """The event that can't be projected, for which reason, and since when an answer lacks it."""

    position: PositionText
    reason: str
    since: Time


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is, or was, known about a user; `stale` if they are parked."""

    application_id: str
    user_id: str
    company_id: int | None
    lifecycle: Lifecycle
    state: JsonObject
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

    position: PositionText
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


def user_of(row: asyncpg.Record, keyring: Keyring) -> User:
    """Show a row of users, joined with their key and the event because of which they are parked."""
    opened = open_user(key_of(row, keyring), row)
    stale: Stale | None = None
    if row["stale_position"] is not None:
        position = Position(row["partition"], row["stale_position"])
        stale = stale_since(position, row["stale_reason"], row["stale_since"])
    return User(
        row["application_id"],
        row["user_id"],
        opened.company_id,
        lifecycle_of(row["lifecycle"]),
        opened.state,
        AsOf(**_row_columns(row, row["partition"])),
        stale,
    )


def folded_user(stream: Stream, state: UserState) -> User:
    """Show a user as they were folded."""
    raw = msgspec.Raw(encode_fields(state.fields))
    ids = stream.application_id, stream.user_id
    return User(*ids, state.company_id, state.lifecycle, raw, AsOf(*_event_columns(state.last)))


def stale_since(position: Position, reason: str, since: datetime) -> Stale:
    """Show the event because of which a user is parked."""
    return Stale(str(position), reason, rfc3339(since))


def entry_of(row: asyncpg.Record, opened: SealedEntry, partition: int) -> Entry:
    """Show a row of history, and what was sealed in it."""
    return Entry(
        **_row_columns(row, partition),
        late=row["late"],
        summary=opened.summary,
        changes=changes_of(opened),
        stated_at=_maybe(opened.stated_time),
    )


def key_of(row: asyncpg.Record, keyring: Keyring) -> ColumnKey:
    """Return the key of a user's columns, which came with a row of theirs."""
    key = keyring.of_row(row)
    assert key is not None, "an erasure takes key and rows at once"  # noqa: S101
    return key.for_columns()


def folded_entry(entry: HistoryEntry) -> Entry:
    """Show an entry as it was folded."""
    stated_at = _maybe(entry.event.stated_at)
    return Entry(*_event_columns(entry.event), entry.late, entry.summary, entry.changes, stated_at)


def _row_columns(row: asyncpg.Record, partition: int) -> dict[str, Any]:
    return {
        "position": str(Position(partition, row["position"])),
        "event_type": Kind(row["kind"]).label,
        "occurred_at": rfc3339(row["occurred_at"]),
        "recorded_at": rfc3339(row["recorded_at"]),
    }


def _event_columns(event: UserEvent) -> tuple[str, str, str, str]:
    times = rfc3339(event.occurred_at), rfc3339(event.recorded_at)
    return str(event.position), event.kind.label, *times


def _maybe(time: datetime | None) -> str | None:
    return rfc3339(time) if time else None
