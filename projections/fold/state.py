"""The fold: what a user is, from the events about them, forwards or backwards. Pure.

Last writer wins per field in effective order; a field that an event does not carry keeps its
value, an explicit null clears it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import msgspec

from eventstore.events import Kind
from projections.fold.events import Fields, UserEvent, milliseconds

if TYPE_CHECKING:
    from datetime import datetime

Lifecycle: TypeAlias = Literal["active", "blocked", "deleted"]
LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)
# As the read models have them; before their first event a user has none.
LIFECYCLE_NUMBERS: dict[Lifecycle | None, int] = {
    None: 0,
    **{one: number for number, one in enumerate(LIFECYCLES, 1)},
}

# To be raised with every change of what the fold makes of the same events: an unfinished rebuild
# is taken up again by the same version only.
FOLD_VERSION = 4

_encode = msgspec.json.Encoder(order="sorted").encode


class UserState(msgspec.Struct, frozen=True):
    """A user after some events, and the newest of these in effective order.

    `since` has the names that the user's first event did not carry, and when they were first
    heard of, in epoch milliseconds.
    """

    company_id: int | None
    lifecycle: Lifecycle
    fields: Fields
    last: UserEvent
    since: dict[str, int] = {}


def fold(state: UserState | None, event: UserEvent) -> UserState:
    """Apply the next event in effective order."""
    if state is None:
        return UserState(
            event.company_id, _lifecycle(event.kind, event.fields), event.fields, event
        )
    before = state.fields
    fields = {**before, **event.fields}
    if "extra" in before and "extra" in event.fields:
        fields["extra"] = {**before["extra"], **event.fields["extra"]}
    company_id = state.company_id if event.company_id is None else event.company_id
    since = state.since
    if new := _new_names(state, event):
        since = {**since, **dict.fromkeys(new, milliseconds(event.occurred_at))}
    return UserState(company_id, _lifecycle(event.kind, fields), fields, event, since)


def _new_names(state: UserState, event: UserEvent) -> set[str]:
    """Return the names that are first heard of in an event; mostly there are none."""
    before, now = state.fields, event.fields
    known = event.company_id is None or state.company_id is not None
    if known and "extra" not in now and now.keys() <= before.keys():
        return set()
    return names_of(now, event.company_id) - names_of(before, state.company_id)


def names_of(fields: Fields, company_id: int | None) -> set[str]:
    """Return the names of all that is known here, those below `extra` one by one."""
    names = {f"extra.{name}" for name in fields.get("extra", ())} | fields.keys()
    names.discard("extra")
    if company_id is not None:
        names.add("company_id")
    return names


def names_by(
    until: datetime, fields: Fields, company_id: int | None, since: dict[str, int]
) -> set[str]:
    """Return, of a user after all their events, the names that those up to a moment may carry."""
    last = milliseconds(until)
    return {name for name in names_of(fields, company_id) if since.get(name, last) <= last}


class Recall:
    """A user put together from their newest event backwards, until nothing older can matter.

    The same as the fold: of each field the newest value counts.
    """

    def __init__(self, wanted: set[str] | None) -> None:
        """`wanted` has every name that any of the events carries; None if that is not known."""
        self._missing = wanted
        self._company_id: int | None = None
        self._fields: Fields = {}
        self._last: UserEvent | None = None

    def add(self, event: UserEvent) -> None:
        """Take the next older event in effective order."""
        self._last = self._last or event
        if self._company_id is None:
            self._company_id = event.company_id
        extra = {**event.fields.get("extra", {}), **self._fields.get("extra", {})}
        self._fields = {**event.fields, **self._fields}
        if extra:
            self._fields["extra"] = extra
        if self._missing is not None:
            self._missing = self._missing - names_of(event.fields, event.company_id)

    @property
    def complete(self) -> bool:
        """Whether older events can change nothing."""
        return self._last is not None and self._missing is not None and not self._missing

    @property
    def state(self) -> UserState | None:
        """The user; None before the first event."""
        if self._last is None:
            return None
        lifecycle = _lifecycle(self._last.kind, self._fields)
        return UserState(self._company_id, lifecycle, self._fields, self._last)


def _lifecycle(kind: Kind, fields: Fields) -> Lifecycle:
    """Say where in their life a user is.

    The type of the event decides deletion, never the flags: the documented delete sample has
    `archive: false, active: true`.
    """
    if kind is Kind.DELETED:
        return "deleted"
    return "blocked" if fields.get("active") is False else "active"


def lifecycle_of(number: int) -> Lifecycle:
    """Return what a number in the read models stands for."""
    return LIFECYCLES[number - 1]


def encode_fields(fields: Fields) -> bytes:
    """Encode fields as JSON; equal fields give equal bytes."""
    return _encode(fields)
