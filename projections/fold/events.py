"""Reading an event of the log: its fields, and where it stands in effective order. Pure.

Effective order: by the time the event happened, then by kind (create, update, delete), then by
the user's own `updated_at` and `__v`, then by content. Nothing in it depends on arrival.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from eventstore.events import Kind, Position, RecordedEvent
from projections.deliveries.envelope import read_single
from projections.deliveries.values import UserEntry, is_object, read_time

Fields: TypeAlias = dict[str, Any]

_KNOWN = (
    *("username", "first_name", "last_name", "phone_numbers", "emails", "gender", "dob"),
    *("status", "active", "archive", "account_type", "profile_pic_url", "meta", "external_id"),
    *("rr_id", "consent", "deleted_on", "uid", "roles", "debug", "__v", "has_old_password_hash"),
    *("is_created", "hash", "created_at", "updated_at"),
)
_IDS = frozenset(("_id", "id", "user_id", "userId", "application_id", "applicationId"))
# Where unknown fields stand.
EXTRA = "extra"
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


def _order_key(event: RecordedEvent, entry: UserEntry, event_id: str) -> bytes:
    updated_at = read_time(entry.user.get("updated_at", entry.user.get("updatedAt")))
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


def fields_of(entry: UserEntry) -> Fields:
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
        fields[EXTRA] = unknown
    return fields


def unknown_names(entry: UserEntry) -> list[str]:
    """Return the names of an entry's fields that would stand below `extra`."""
    return [name for name in entry.user if name not in _FIELDS and name not in _IDS]


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
