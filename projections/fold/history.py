"""The history: what each event changed, in data and in words a person uses. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.events import Kind
from projections.deliveries.values import is_list, is_object
from projections.fold.events import EXTRA, Fields, UserEvent
from projections.fold.interruptible import run_at_once
from projections.fold.poison import poison_of
from projections.fold.state import Lifecycle, UserState, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.fold.interruptible import Work

_CONTACTS = {"emails": ("e-mail", "email"), "phone_numbers": ("phone", "phone")}
# Bookkeeping, and what the words about a user's life are about.
_NOT_OF_PROFILE = frozenset(
    (
        *("updated_at", "created_at", "__v", "is_created", "debug", "hash"),
        *("has_old_password_hash", "active", "deleted_on"),
    )
)


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field's old and new value; `key` is the phone or e-mail it is about.

    An unknown field is named `extra.` and its name. A value that was not there before, or is not
    there any more, is null.
    """

    field: str
    old: Any = msgspec.field(name="from")
    new: Any = msgspec.field(name="to")
    key: str | None = None


class HistoryEntry(msgspec.Struct, frozen=True):
    """One event and what it changed; `late` when an event after it had been recorded before.

    `before` and `after` are the user's lifecycle; `before` is None at the first event.
    """

    event: UserEvent
    late: bool
    summary: list[str]
    changes: list[Change]
    before: Lifecycle | None
    after: Lifecycle


def replay(events: Iterable[UserEvent]) -> tuple[UserState | None, list[HistoryEntry]]:
    """Fold all events of one user, in whatever order they are given."""
    return run_at_once(replaying(events))


def replaying(
    events: Iterable[UserEvent],
) -> Work[tuple[UserState | None, list[HistoryEntry]]]:
    """Do the same as work that can be interrupted after each event."""
    state: UserState | None = None
    entries: list[HistoryEntry] = []
    known = list(events)
    late = late_positions(known)
    for event in sorted(known, key=attrgetter("order_key", "position")):
        state, made = step(state, event, late=event.position in late)
        entries.append(made)
        yield
    return state, entries


def step(
    before: UserState | None, event: UserEvent, *, late: bool
) -> tuple[UserState, HistoryEntry]:
    """Apply the next event in effective order and describe it; PoisonError if that fails."""
    try:
        after = fold(before, event)
        return after, entry(before, after, late=late)
    except Exception as error:
        raise poison_of(event.position, error) from error


def late_positions(events: Iterable[UserEvent], newest: bytes = b"") -> set[Any]:
    """Return the positions of events recorded after one that follows them in effective order.

    `newest` is the highest order key among events recorded before these.
    """
    late: set[Any] = set()
    for event in sorted(events, key=attrgetter("position")):
        if event.order_key < newest:
            late.add(event.position)
        else:
            newest = event.order_key
    return late


def entry(before: UserState | None, after: UserState, *, late: bool) -> HistoryEntry:
    """Describe the step from one state to the next; `after.last` is the event that made it."""
    changes = _changes(before.fields if before else {}, after.fields)
    summary = _summary(before, after, changes)
    was = before.lifecycle if before else None
    return HistoryEntry(after.last, late, summary, changes, was, after.lifecycle)


def _changes(before: Fields, after: Fields) -> list[Change]:
    """Compare what is known of a user before and after; what is known once stays known."""
    changes: list[Change] = []
    for field in sorted([field for field, new in after.items() if before.get(field) != new]):
        old, new = before.get(field), after[field]
        if field in _CONTACTS:
            changes += _contact_changes(field, old, new)
        elif field == EXTRA:
            changes += _extra_changes(old or {}, new)
        else:
            changes.append(Change(field, old, new))
    return changes


def _extra_changes(before: Fields, after: Fields) -> Iterator[Change]:
    """Compare unknown fields name by name, so that each costs no more than itself."""
    for name in sorted([name for name, new in after.items() if before.get(name) != new]):
        yield Change(f"{EXTRA}.{name}", before.get(name), after[name])


def _contact_changes(field: str, old: object, new: object) -> Iterator[Change]:
    """Match contacts by value; where that is impossible, report the list as a whole."""
    before, after = _by_value(field, old), _by_value(field, new)
    if before is None or after is None:
        yield Change(field, old, new)
        return
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was is None or now is None:
            yield Change(field, was, now, key)
        elif was != now:
            names = sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n))
            yield Change(field, {n: was.get(n) for n in names}, {n: now.get(n) for n in names}, key)


def _by_value(field: str, contacts: object) -> dict[str, Fields] | None:
    if contacts is None:
        return {}
    found: dict[str, Fields] = {}
    for contact in contacts if is_list(contacts) else [None]:
        value = contact.get(_CONTACTS[field][1]) if is_object(contact) else None
        if not (is_object(contact) and isinstance(value, str)) or value in found:
            return None
        found[value] = contact
    return found


def _summary(before: UserState | None, after: UserState, changes: list[Change]) -> list[str]:
    """Say what happened; the first words are about the user's life, the rest about their data."""
    words = [*_life(before, after), *(() if before is None else _data(changes))]
    if not words:
        return ["record updated"] if changes else ["nothing changed"]
    return list(dict.fromkeys(words))


def _life(before: UserState | None, after: UserState) -> Iterator[str]:
    kind = after.last.kind
    if kind is Kind.CREATED:
        yield "created"
    elif before is None and kind is Kind.UPDATED:
        yield "first seen"
    was = before.lifecycle if before else "active"
    if kind is Kind.DELETED:
        yield "deleted"
    elif was == "deleted":
        yield "restored"
    if after.fields.get("active") is False and (before is None or _active(before)):
        yield "blocked"
    elif before and not _active(before) and _active(after):
        yield "unblocked"


def _active(state: UserState) -> bool:
    return state.fields.get("active") is not False


def _data(changes: list[Change]) -> Iterator[str]:
    for change in changes:
        if change.field in _CONTACTS:
            yield f"{_CONTACTS[change.field][0]} {_contact_word(change)}"
        elif change.field not in _NOT_OF_PROFILE:
            yield "profile changed"


def _contact_word(change: Change) -> str:
    if change.key is None:
        return "changed"
    if change.old is None:
        return "added"
    if change.new is None:
        return "removed"
    if not change.old.get("verified", True) and change.new.get("verified"):
        return "verified"
    return "changed"
