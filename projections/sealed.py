"""What the read models keep sealed with the user's key: what the platform knows of a person.

In the clear are ids, kinds, times, positions, order keys and lifecycles. Sealed are a user's state
and what each event changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from eventstore.sealing.columns import ColumnKey, place_of
from projections.fold.events import milliseconds, order_key_of, time_of
from projections.fold.history import Change

if TYPE_CHECKING:
    import uuid
    from datetime import datetime

    from projections.fold.history import HistoryEntry
    from projections.fold.state import UserState


class Stored(Protocol):
    """A row as it is stored, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...  # noqa: ANN401 - a column's value


class Opened(NamedTuple):
    """A sealed column, opened: its bytes, and the JSON that stands in them by name."""

    text: bytes
    named: dict[str, bytes]


# Opens a row's sealed column for a comparison.
Open: TypeAlias = Callable[[ColumnKey, Stored], Opened | None]

_USERS = "users"
_HISTORY = "history"


class SealedUser(msgspec.Struct, frozen=True, array_like=True):
    """What `users.sealed` holds.

    `since` says when those of the fields were first heard of that the user's first event did not
    have, in epoch milliseconds. `state` is the JSON of the fields, byte for byte.
    """

    company_id: int | None
    since: dict[str, int]
    state: msgspec.Raw


class SealedEntry(msgspec.Struct, frozen=True, array_like=True):
    """What `history.sealed` holds; `changes` is the JSON of a list of changes.

    `stated_at` is the time that the sender stated, in epoch milliseconds, if that was too far ahead
    to be believed.
    """

    summary: list[str]
    changes: msgspec.Raw
    stated_at: int | None

    @property
    def stated_time(self) -> datetime | None:
        """The same as a time."""
        return None if self.stated_at is None else time_of(self.stated_at)


_encode = msgspec.json.Encoder(order="sorted").encode
_decode_user = msgspec.json.Decoder(SealedUser).decode
_decode_entry = msgspec.json.Decoder(SealedEntry).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_changes = msgspec.json.Decoder(list[Change]).decode


def user_text(state: UserState) -> bytes:
    """Return what is sealed of a user; equal states give equal bytes."""
    return _encode((state.company_id, state.since, state.fields))


def entry_text(entry: HistoryEntry) -> bytes:
    """Return what is sealed of an entry of the history."""
    stated_at = entry.event.stated_at
    stated_ms = milliseconds(stated_at) if stated_at else None
    return _encode((entry.summary, entry.changes, stated_ms))


def seal_user(key: ColumnKey, stream_id: uuid.UUID, state: UserState) -> bytes:
    """Seal what is known of a user."""
    last = state.last
    place = place_of(_USERS, stream_id, last.order_key, last.position.number)
    return key.seal(user_text(state), place)


def open_user(key: ColumnKey, row: Stored) -> SealedUser:
    """Open a row of users; SealBrokenError if it was altered."""
    return _decode_user(_open(key, _USERS, row))


def seal_entry(key: ColumnKey, stream_id: uuid.UUID, entry: HistoryEntry) -> bytes:
    """Seal what an event changed."""
    event = entry.event
    place = place_of(_HISTORY, stream_id, event.order_key, event.position.number)
    return key.seal(entry_text(entry), place)


def open_entry(key: ColumnKey, row: Stored) -> SealedEntry:
    """Open a row of history; SealBrokenError if it was altered."""
    return _decode_entry(_open(key, _HISTORY, row))


def changes_of(entry: SealedEntry) -> list[Change]:
    """Decode what an event changed."""
    return _decode_changes(entry.changes)


def _open(key: ColumnKey, table: str, row: Stored) -> bytes:
    return key.open(row["sealed"], _place(table, row))


def _place(table: str, row: Stored) -> bytes:
    order_key = order_key_of(row["occurred_at"], row["kind"], row["tie_break"])
    return place_of(table, row["stream_id"], order_key, row["position"])


def user_by_name(key: ColumnKey, row: Stored) -> Opened | None:
    """Open a row of users for a comparison; None if it was altered."""
    text = key.open_or_none(row["sealed"], _place(_USERS, row))
    if text is None:
        return None
    found = _decode_user(text)
    named = {"company_id": _encode(found.company_id)}
    named |= {f"since.{name}": _encode(at) for name, at in found.since.items()}
    named |= {f"state.{name}": bytes(raw) for name, raw in _decode_object(found.state).items()}
    return Opened(text, named)


def entry_by_name(key: ColumnKey, row: Stored) -> Opened | None:
    """Open a row of history for a comparison; None if it was altered."""
    text = key.open_or_none(row["sealed"], _place(_HISTORY, row))
    if text is None:
        return None
    found = _decode_entry(text)
    named = {"summary": _encode(found.summary), "changes": bytes(found.changes)}
    return Opened(text, named | {"stated_at": _encode(found.stated_at)})
