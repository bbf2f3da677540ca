"""How to read a delivery of the platform: the one place that knows its envelopes.

Two envelopes exist. *Delivered*, as the platform's SDKs read it: `event{name, type, id?,
created_timestamp?}`, `company_id`, `application_id` and `payload` at the top level. *Documented*,
as its webhook page shows: the same below `meta`, beside `payload`. The platform's transform
output nests the first below `data`. `payload` holds users as an array, in older bodies as one
object. Sources: the page this project was made from, and the platform's public SDKs.

Deliveries are read here when they arrive and again whenever the log is folded, so an event that
is in the log is read by the best reader there is, not by the one that was there on its day.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

import msgspec

USER_TOPIC = "user"
PING_TOPIC = "ping"
_SECONDS_BELOW = 100_000_000_000
"""A number below is epoch seconds (until the year 5138), one above epoch milliseconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_CHARACTERS_MAX = 200
_NUMBERS = 10**18
_DEPTH_MAX = 100
_TOO_DEEP = "nested too deeply"
_BRACKET_OR_STRING = re.compile(rb'[\[{\]}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class UnreadableError(Exception):
    """A delivery, or an entry of it, that can't be read.

    `reason` is one of a few fixed words, `detail` says what and where in a sentence that quotes
    nothing of the content.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both for whoever shows or stores them."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


_NOTHING = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    name: Any = None
    type: Any = None
    id: Any = None
    created_timestamp: Any = None


class _Meta(msgspec.Struct):
    event: _Event | None = None
    company_id: Any = None
    application_id: Any = None
    created_timestamp: Any = None


class _Body(msgspec.Struct):
    event: _Event | None = None
    meta: _Meta | None = None
    company_id: Any = None
    application_id: Any = None
    payload: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _Single(msgspec.Struct):
    event: _Event | None = None
    meta: _Meta | None = None
    company_id: Any = None
    application_id: Any = None
    payload: list[dict[str, Any]] = []


class Delivery(msgspec.Struct, frozen=True):
    """A delivery whose envelope was understood; `payload` is still the raw JSON value."""

    topic: str
    type: str
    event_id: str | None
    occurred_at: datetime | None
    company_id: int | None
    application_id: str | None
    payload: bytes


class Entry(msgspec.Struct, frozen=True):
    """One user of a delivery: what stands below `user`, and beside it."""

    user: dict[str, Any]
    beside: dict[str, Any]

    def identifier(self, *names: str) -> str | None:
        """Return the first of these fields that holds an id: a short string or a number."""
        for name in names:
            found = identifier(self.user.get(name))
            if found is not None:
                return found
        return None

    def time(self) -> datetime | None:
        """Return when the user says they were last touched."""
        for name in ("updated_at", "updatedAt", "created_at", "createdAt"):
            found = moment(self.user.get(name))
            if found is not None:
                return found
        return None


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_single = msgspec.json.Decoder(_Single).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


def read_delivery(body: bytes) -> Delivery:
    """Read the envelope; UnreadableError if it is none."""
    found = _decode(_decode_body, body)
    if found.event is None and found.meta is None and bytes(found.data) != b"null":
        found = _decode(_decode_body, bytes(found.data))
    return _delivery(found, bytes(found.payload))


def read_usual(body: bytes) -> tuple[Delivery, Entry] | None:
    """Read a delivery of one user in one go, the same as step by step; None if it has to be that.

    The payload's bytes, which nobody needs then, are left out.
    """
    try:
        found = _decode_single(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if (found.event or found.meta) and len(found.payload) == 1:
        (value,) = found.payload
        if is_object(value.get("user")):
            return _delivery(found, b""), _entry(value)
    return None


def read_single(body: bytes) -> tuple[Delivery, Entry]:
    """Read a delivery of one user, as the log keeps them; UnreadableError if it is none."""
    if usual := read_usual(body):
        return usual
    delivery = read_delivery(body)
    (raw,) = split_payload(delivery.payload)
    return delivery, read_entry(raw)


def _delivery(found: _Body | _Single, payload: bytes) -> Delivery:
    event = found.event or (found.meta and found.meta.event)
    if not event or not isinstance(event.name, str):
        detail = "neither `event.name` nor `meta.event.name` is there"
        raise UnreadableError("unknown-envelope", detail)
    meta = found.meta or _Meta()
    happened = event.created_timestamp
    return Delivery(
        topic=event.name,
        type=event.type if isinstance(event.type, str) else "",
        event_id=identifier(event.id),
        occurred_at=moment(meta.created_timestamp if happened is None else happened),
        company_id=_number(meta.company_id if found.company_id is None else found.company_id),
        application_id=_only(found.application_id) or _only(meta.application_id),
        payload=payload,
    )


def split_payload(payload: bytes) -> list[bytes]:
    """Return the raw JSON of each user's entry; UnreadableError if it is no list or object."""
    if payload[:1] == b"[":
        return [bytes(raw) for raw in _decode(_decode_list, payload)]
    if payload[:1] == b"{":
        return [payload]
    raise UnreadableError("no-users", "`payload` is neither a list of users nor a user")


def read_entry(raw: bytes) -> Entry:
    """Read one user's entry; UnreadableError if there is no user in it."""
    value = _decode(_decode_any, raw)
    user = value.get("user") if is_object(value) else None
    if not (is_object(value) and is_object(user)):
        raise UnreadableError("no-user", "an entry of `payload` has no object named `user`")
    return _entry(value)


def _entry(value: dict[str, Any]) -> Entry:
    beside = {name: other for name, other in value.items() if name != "user"}
    return Entry(value["user"], beside)


def _decode(decoder: Any, raw: bytes) -> Any:  # noqa: ANN401 - as wide as the decoders
    try:
        return decoder(raw)
    except msgspec.ValidationError as error:
        raise UnreadableError("unknown-envelope", _place(str(error), raw)) from None
    except msgspec.DecodeError as error:
        raise UnreadableError("not-json", _place(str(error), raw)) from None
    except UnicodeDecodeError:
        raise UnreadableError("not-json", "a string is not valid UTF-8") from None
    except RecursionError:
        raise UnreadableError("not-json", _TOO_DEEP) from None


def _place(message: str, raw: bytes) -> str:
    """Add line and column to the decoder's message, which names a byte and quotes nothing."""
    head, found, tail = message.partition("(byte ")
    if not found:
        return message
    offset = int(tail.rstrip(")"))
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - raw.rfind(b"\n", 0, offset)
    return f"{head}(line {line}, column {column}, byte {offset})"


def refuse_too_deep(raw: bytes) -> None:
    """UnreadableError if JSON is nested deeper than whoever reads it later is sure to follow.

    Where the decoder itself gives up depends on its caller's stack: what it accepted here it
    might refuse elsewhere.
    """
    if raw.count(b"[") + raw.count(b"{") <= _DEPTH_MAX:
        return
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(raw):
        sign = raw[found.start()]
        depth += (sign in b"[{") - (sign in b"]}")
        if depth > _DEPTH_MAX:
            raise UnreadableError("not-json", _TOO_DEEP)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Say whether a decoded JSON value is a list."""
    return isinstance(value, list)


def identifier(value: object) -> str | None:
    """Return an id as text: a string as it is, a whole number in decimal, else None."""
    text = str(value) if type(value) is int else value  # True is no id
    if isinstance(text, str) and 0 < len(text) <= _ID_CHARACTERS_MAX and "\0" not in text:
        return text
    return None


def _only(value: object) -> str | None:
    """Return the id, or the only id in a list of one; of several none can be chosen."""
    if is_list(value):
        return identifier(value[0]) if len(value) == 1 else None
    return identifier(value)


def _number(value: object) -> int | None:
    if type(value) is int and 0 <= value < _NUMBERS:
        return value
    found = identifier(value)
    if found is None or not found.isdecimal() or len(found) > 18:  # noqa: PLR2004 - fits 64 bits
        return None
    return int(found)


def moment(value: object) -> datetime | None:
    """Read a time: epoch milliseconds or seconds, as number or text, or ISO 8601, else None.

    In UTC, cut to the millisecond. ISO without an offset counts as UTC, as the platform means it.
    """
    if isinstance(value, str):
        if not value.isdecimal():
            return _iso(value)
        value = int(value) if len(value) <= 18 else None  # noqa: PLR2004 - fits 64 bits
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    milliseconds = value * 1000 if abs(value) < _SECONDS_BELOW else value
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds))
    except (OverflowError, ValueError):  # infinity, NaN
        return None


def _iso(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not UTC:
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    beyond = found.microsecond % 1000
    return found.replace(microsecond=found.microsecond - beyond) if beyond else found
