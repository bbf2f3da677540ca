"""How to read a delivery of the platform: the one place that knows its envelopes. Pure.

Two envelopes exist. *Delivered*, as the platform's SDKs read it: `event{name, type, id?,
created_timestamp?}`, `company_id`, `application_id` and `payload` at the top level. *Documented*,
as its webhook page shows: the same below `meta`, beside `payload`. The platform's transform
output nests the first below `data`. `payload` holds users as an array, in older bodies as one
object. Sources: the page this project was made from, and the platform's public SDKs.

Deliveries are read here when they arrive and again whenever the log is folded, so an event that
is in the log is read by the best reader there is, not by the one that was there on its day.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec

from projections.deliveries.values import (
    TOO_DEEP,
    UnreadableError,
    UserEntry,
    identifier,
    is_object,
    only_identifier,
    read_number,
    read_time,
)

USER_TOPIC = "user"
PING_TOPIC = "ping"
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


class _Payload(msgspec.Struct):
    event: msgspec.Raw = _NOTHING
    meta: msgspec.Raw = _NOTHING
    payload: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _Single(msgspec.Struct):
    event: _Event | None = None
    meta: _Meta | None = None
    company_id: Any = None
    application_id: Any = None
    # A list of one: of a longer one no more than the first is decoded.
    payload: tuple[dict[str, Any]] | None = None


class Delivery(msgspec.Struct, frozen=True):
    """A delivery whose envelope was understood; `payload` is still the raw JSON value."""

    topic: str
    type: str
    event_id: str | None
    occurred_at: datetime | None
    company_id: int | None
    application_id: str | None
    payload: bytes


_NO_META = _Meta()
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_single = msgspec.json.Decoder(_Single).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


def read_delivery(body: bytes) -> Delivery:
    """Read the envelope; UnreadableError if it is none."""
    found = _decode(_decode_body, body)
    if found.event is None and found.meta is None and bytes(found.data) != b"null":
        found = _decode(_decode_body, bytes(found.data))
    return _delivery(found, bytes(found.payload))


def payload_of(body: bytes) -> bytes:
    """Return the raw payload, without decoding anything; UnreadableError if it is no envelope."""
    found = _decode(_decode_payload, body)
    if bytes(found.event) == bytes(found.meta) == b"null" != bytes(found.data):
        found = _decode(_decode_payload, bytes(found.data))
    return bytes(found.payload)


def read_fast(body: bytes) -> tuple[Delivery, UserEntry] | None:
    """Read a delivery of one user in one go; None if it has to be read step by step.

    The result is the same, but for the payload's bytes, which are left out.
    """
    try:
        found = _decode_single(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if (found.event or found.meta) and found.payload:
        (value,) = found.payload
        if isinstance(value.get("user"), dict):
            entry = _entry(value)
            return _delivery(found, b""), entry
    return None


def read_single(body: bytes) -> tuple[Delivery, UserEntry]:
    """Read a delivery of one user, as the log keeps them; UnreadableError if it is none."""
    if fast := read_fast(body):
        return fast
    delivery = read_delivery(body)
    (raw,) = split_payload(delivery.payload)
    return delivery, read_entry(raw)


def _delivery(found: _Body | _Single, payload: bytes) -> Delivery:
    event = found.event or (found.meta and found.meta.event)
    if not event or not isinstance(event.name, str):
        detail = "neither `event.name` nor `meta.event.name` is there"
        raise UnreadableError("unknown-envelope", detail)
    meta = found.meta or _NO_META
    happened = event.created_timestamp
    return Delivery(
        topic=event.name,
        type=event.type if isinstance(event.type, str) else "",
        event_id=identifier(event.id),
        occurred_at=read_time(meta.created_timestamp if happened is None else happened),
        company_id=read_number(meta.company_id if found.company_id is None else found.company_id),
        application_id=only_identifier(found.application_id, meta.application_id),
        payload=payload,
    )


def split_payload(payload: bytes) -> list[bytes]:
    """Return the raw JSON of each user's entry; UnreadableError if it is no list or object."""
    if payload[:1] == b"[":
        return [bytes(raw) for raw in _decode(_decode_list, payload)]
    if payload[:1] == b"{":
        return [payload]
    raise UnreadableError("no-users", "`payload` is neither a list of users nor a user")


def read_entry(raw: bytes) -> UserEntry:
    """Read one user's entry; UnreadableError if there is no user in it."""
    value = _decode(_decode_any, raw)
    user = value.get("user") if is_object(value) else None
    if not (is_object(value) and is_object(user)):
        raise UnreadableError("no-user", "an entry of `payload` has no object named `user`")
    return _entry(value)


def user_of(delivery: Delivery, entry: UserEntry) -> tuple[str | None, str | None]:
    """Return the application's id and the user's, those that are there."""
    application_id = entry.identifier("application_id", "applicationId") or delivery.application_id
    return application_id, entry.identifier("user_id", "userId", "_id", "id")


def whose(delivery: Delivery, raw: bytes) -> tuple[str, str] | None:
    """Return whose an entry is that can't be read otherwise, if that much of it can be.

    Bytes that are no UTF-8 and numbers that are too large don't matter here, unless an id has them.
    """
    try:
        value = json.loads(raw.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    user = value.get("user") if is_object(value) else None
    application_id, user_id = user_of(delivery, UserEntry(user if is_object(user) else {}, {}))
    if application_id is None or user_id is None or "\ufffd" in application_id + user_id:
        return None
    return application_id, user_id


def _entry(value: dict[str, Any]) -> UserEntry:
    """Take the user out of an entry; the rest stands beside them."""
    user = value.pop("user")
    return UserEntry(user, value)


def _decode(decoder: Any, raw: bytes) -> Any:  # noqa: ANN401 - as wide as the decoders
    try:
        return decoder(raw)
    except msgspec.ValidationError as error:
        raise UnreadableError("unknown-envelope", _with_line(str(error), raw)) from None
    except msgspec.DecodeError as error:
        raise UnreadableError("not-json", _with_line(str(error), raw)) from None
    except UnicodeDecodeError:
        raise UnreadableError("not-json", "a string is not valid UTF-8") from None
    except RecursionError:
        raise UnreadableError("not-json", TOO_DEEP) from None


def _with_line(message: str, raw: bytes) -> str:
    """Add line and column to the decoder's message, which names a byte and quotes nothing."""
    head, found, tail = message.partition("(byte ")
    if not found:
        return message
    offset = int(tail.rstrip(")"))
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - raw.rfind(b"\n", 0, offset)
    return f"{head}(line {line}, column {column}, byte {offset})"
