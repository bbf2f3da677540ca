"""The fold: what a user is, from the events about them, forwards or backwards. Pure.

Effective order: by the time the event happened, then by kind (create, update, delete), then by
the user's own `updated_at` and `__v`, then by content. Nothing in it depends on arrival.
Last writer wins per field in that order; a field that an event does not carry keeps its value,
an explicit null clears it.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from eventstore.events import Kind, Position, RecordedEvent
from projections.deliveries.envelope import Entry, is_object, moment, read_single

Fields: TypeAlias = dict[str, Any]
Lifecycle: TypeAlias = Literal["active", "blocked", "deleted"]

FOLD_VERSION = 2
"""To be raised with every change of what the fold makes of the same events: an unfinished rebuild
is taken up again by the same version only."""

_KNOWN = (
    *("username", "first_name", "last_name", "phone_numbers", "emails", "gender", "dob"),
    *("status", "active", "archive", "account_type", "profile_pic_url", "meta", "external_id"),
    *("rr_id", "consent", "deleted_on", "uid", "roles", "debug", "__v", "has_old_password_hash"),
    *("is_created", "hash", "created_at", "updated_at"),
)
_IDS = frozenset(("_id", "id", "user_id", "userId", "application_id", "applicationId"))
_CODE_DIGITS_MAX = 9
_CONTACT = ("active", "primary", "verified", "email", "phone", "country_code")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest) if head else name


def _names(known: tuple[str, ...]) -> dict[str, str]:
    """Return what each name stands for, itself or the snake_case of which it is the twin."""
    return {_camel(name): name for name in known} | {name: name for name in known}


_FIELDS = _names(_KNOWN)
_CONTACT_FIELDS = _names(_CONTACT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder(order="sorted").encode
_ORDER = struct.Struct(">QBQQ")
_BIAS = 1 << 62
_LOWEST = -_BIAS


class UserEvent(msgspec.Struct, frozen=True):
    """An event of the log, read: `fields` holds only what it carries, in snake_case.

    `order_key` sorts, as bytes, in effective order. `stated_at` is there when the sender stated a
    time too far ahead to be believed.
    """

    order_key: bytes
    position: Position
    kind: Kind
    occurred_at: datetime
    recorded_at: datetime
    company_id: int | None
    fields: Fields
    stated_at: datetime | None = None


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


def read_event(event: RecordedEvent) -> UserEvent:
    """Read an event of the log; UnreadableError if its payload can't be read any more."""
    delivery, entry = read_single(event.payload or b"")
    stated_at = delivery.occurred_at or entry.time()
    return UserEvent(
        order_key=_order_key(event, entry, delivery.event_id or ""),
        position=event.position,
        kind=event.kind,
        occurred_at=event.occurred_at,
        recorded_at=event.recorded_at,
        company_id=delivery.company_id,
        fields=fields_of(entry),
        stated_at=stated_at if stated_at and stated_at > event.occurred_at else None,
    )


def _order_key(event: RecordedEvent, entry: Entry, event_id: str) -> bytes:
    updated_at = moment(entry.user.get("updated_at", entry.user.get("updatedAt")))
    version = entry.user.get("__v")
    version = version if type(version) is int and abs(version) < _BIAS else _LOWEST
    content = _encode([event_id, entry])
    return (
        _ORDER.pack(
            milliseconds(event.occurred_at) + _BIAS,
            event.kind,
            (milliseconds(updated_at) if updated_at else _LOWEST) + _BIAS,
            version + _BIAS,
        )
        + hashlib.sha256(content).digest()[:16]
    )


def milliseconds(time: datetime) -> int:
    """Return a time as epoch milliseconds."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def order_key_after(time: datetime) -> bytes:
    """Return what every order key of an event that occurred by then, inclusive, is below."""
    return (milliseconds(time) + 1 + _BIAS).to_bytes(8)


def fields_of(entry: Entry) -> Fields:
    """Return the fields that an entry carries: snake_case first, then its camelCase twin.

    Unknown ones stand below `extra` as they came; `socialAccounts`, which comes beside the user,
    becomes `social_accounts`.
    """
    user = entry.user
    fields: Fields = {}
    unknown: Fields = {}
    for name, value in user.items():
        field = _FIELDS.get(name)
        if field is None:
            if name not in _IDS:
                unknown[name] = value
        elif field == name or field not in user:
            fields[field] = value
    for name in ("phone_numbers", "emails"):
        if isinstance(fields.get(name), list):
            fields[name] = [_contact(item) for item in fields[name]]
    for name in ("social_accounts", "socialAccounts"):
        if name in entry.beside:
            fields["social_accounts"] = entry.beside[name]
            break
    if unknown:
        fields["extra"] = unknown
    return fields


def _contact(item: object) -> object:
    """Normalise a phone or e-mail: one name per property, a number as text, the code as int."""
    if not is_object(item):
        return item
    found: Fields = {}
    for name, value in item.items():
        field = _CONTACT_FIELDS.get(name, name)
        if field == name or field not in item:
            found[field] = value
    if type(found.get("phone")) is int:
        found["phone"] = str(found["phone"])
    code = found.get("country_code")
    if isinstance(code, str) and len(digits := code.removeprefix("+")) <= _CODE_DIGITS_MAX:
        found["country_code"] = int(digits) if digits.isdecimal() else code
    return found


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

    The type of the event decides deletion, never the flags: the documented delete sample says
    `archive: false, active: true`.
    """
    if kind is Kind.DELETED:
        return "deleted"
    return "blocked" if fields.get("active") is False else "active"


def encode_fields(fields: Fields) -> bytes:
    """Encode fields as JSON; equal fields give equal bytes."""
    return _encode(fields)
