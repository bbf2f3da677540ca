"""Reading an event of the log: its fields, and where it stands in effective order. Pure.

Effective order: by the time the event happened, then by kind (create, update, delete), then by
the user's own `updated_at` and `__v`, then by the event's identity, which is keyed by the user's
key. Nothing in it depends on arrival.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

import msgspec

from eventstore.events import Kind, Position, RecordedEvent
from projections.deliveries.envelope import read_single
from projections.deliveries.values import UserEntry, is_object, read_time

Fields: TypeAlias = dict[str, Any]

KNOWN_FIELDS = (
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


_FIELDS = _names(KNOWN_FIELDS)
_CONTACT_FIELDS = _names(_CONTACT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An order key: a time, the kind, a time or none, a number with its size in front, a tie-break.
_TIME_BYTES = 7
_TIME_BIAS = 1 << 55
_NO_TIME = bytes(_TIME_BYTES)
_VERSION_BITS_MAX = 62
_ZERO = 0x80
TIE_BREAK_BYTES = 8
_LEAST_BYTES = 2 * _TIME_BYTES + 1 + 1 + TIE_BREAK_BYTES
ORDER_KEY_BYTES = (_LEAST_BYTES, _LEAST_BYTES + 8)


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
        order_key=_order_key(event, entry),
        position=event.position,
        kind=event.kind,
        occurred_at=event.occurred_at,
        recorded_at=event.recorded_at,
        company_id=delivery.company_id,
        fields=fields_of(entry),
        stated_at=stated_at if stated_at and stated_at > event.occurred_at else None,
    )


def _order_key(event: RecordedEvent, entry: UserEntry) -> bytes:
    updated_at = read_time(entry.user.get("updated_at", entry.user.get("updatedAt")))
    return b"".join(
        (
            _time(event.occurred_at),
            bytes((event.kind,)),
            _time(updated_at) if updated_at else _NO_TIME,
            _version(entry.user.get("__v")),
            event.identity[-TIE_BREAK_BYTES:],
        )
    )


def _time(time: datetime) -> bytes:
    return (milliseconds(time) + _TIME_BIAS).to_bytes(_TIME_BYTES)


def _version(version: object) -> bytes:
    """Write a whole number so that its bytes sort as it does; anything else comes first."""
    if type(version) is not int or version.bit_length() > _VERSION_BITS_MAX:
        return b"\0"
    size = (version.bit_length() + 7) // 8
    if version < 0:
        return bytes((_ZERO - size,)) + (version + (1 << 8 * size)).to_bytes(size)
    return bytes((_ZERO + size,)) + version.to_bytes(size)


def milliseconds(time: datetime) -> int:
    """Return a time as epoch milliseconds."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def time_of(epoch_ms: int) -> datetime:
    """Return epoch milliseconds as a time."""
    return _EPOCH + timedelta(milliseconds=epoch_ms)


_FIRST_MS = milliseconds(datetime.min.replace(tzinfo=UTC))
_LAST_MS = milliseconds(datetime.max.replace(tzinfo=UTC))


def order_key_of(occurred_at: datetime, kind: int, tie_break: bytes) -> bytes:
    """Return the order key that such a row of a read model has; `tie_break` is the rest of it."""
    return _time(occurred_at) + bytes((kind,)) + tie_break


def parts_of(order_key: bytes) -> tuple[datetime, int, bytes]:
    """Return what `order_key_of` has made an order key of."""
    at = int.from_bytes(order_key[:_TIME_BYTES]) - _TIME_BIAS
    at = min(max(at, _FIRST_MS), _LAST_MS)  # of what is no order key the nearest
    return time_of(at), order_key[_TIME_BYTES], tie_break_of(order_key)


def tie_break_of(order_key: bytes) -> bytes:
    """Return what decides among events of one time and kind."""
    return order_key[_TIME_BYTES + 1 :]


def fields_of(entry: UserEntry) -> Fields:
    """Return the fields that an entry carries: snake_case first, then its camelCase twin.

    Unknown ones stand below `extra` as they came; `socialAccounts`, which comes beside the user,
    becomes `social_accounts`.
    """
    user = entry.user
    names = tuple(user)
    shape = _shapes.get(names) or _shape(names)
    fields = {field: user[name] for name, field in shape.known}
    for name in ("phone_numbers", "emails"):
        if isinstance(fields.get(name), list):
            fields[name] = [_contact(item) for item in fields[name]]
    for name in ("social_accounts", "socialAccounts"):
        if name in entry.beside:
            fields["social_accounts"] = entry.beside[name]
            break
    if shape.unknown:
        fields[EXTRA] = {name: user[name] for name in shape.unknown}
    return fields


class _Shape(NamedTuple):
    """What a user's names stand for: known ones with their fields, and those that are unknown."""

    known: list[tuple[str, str]]
    unknown: list[str]


# Of users of whom all names are known: most have the same names in the same order.
_shapes: dict[tuple[str, ...], _Shape] = {}
_SHAPES_MAX = 100


def _shape(names: tuple[str, ...]) -> _Shape:
    there = frozenset(names)
    found = _Shape([], [name for name in names if name not in _FIELDS and name not in _IDS])
    for name in names:
        field = _FIELDS.get(name)
        if field is not None and (field == name or field not in there):
            found.known.append((name, field))
    if not found.unknown:
        if len(_shapes) == _SHAPES_MAX:
            _shapes.clear()
        _shapes[names] = found
    return found


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
