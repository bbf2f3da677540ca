"""From a delivery's bytes to the events that are in it, or the reason why there are none. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from eventstore.events import Kind, NewEvent
from projections.deliveries.envelope import (
    PING_TOPIC,
    USER_TOPIC,
    Delivery,
    read_delivery,
    read_entry,
    read_fast,
    split_payload,
)
from projections.deliveries.values import UnreadableError, UserEntry, refuse_too_deep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_KINDS = {
    "create": Kind.CREATED,
    "update": Kind.UPDATED,
    "delete": Kind.DELETED,
}
_OCCURRENCES_MAX = 100
_encode = msgspec.json.Encoder(order="sorted").encode


class Decoded(msgspec.Struct, frozen=True):
    """The events of a delivery, and what could not be read.

    `topic` is what it is about; of any but users there is nothing else. `rejected` are the
    reasons why the delivery, or a part of it, could not be read; the rest of it is in `events`.
    """

    topic: str
    events: list[NewEvent]
    rejected: list[UnreadableError]


def is_ping(body: bytes) -> bool:
    """Say whether a body is the platform's ping, which is answered without a signature."""
    try:
        return read_delivery(body).topic == PING_TOPIC
    except UnreadableError:
        return False


def decode(body: bytes) -> Decoded:
    """Read a delivery; what can't be read is reported, never raised."""
    try:
        fast = read_fast(body)
        delivery = fast[0] if fast else read_delivery(body)
        if delivery.topic != USER_TOPIC:
            return Decoded(delivery.topic, [], [])
        refuse_too_deep(body)
        found = [(fast[1], body)] if fast else _entries(body, delivery.payload)
    except UnreadableError as error:
        return Decoded("", [], [error])
    if delivery.type not in _KINDS:
        detail = "a user event that is no create, update or delete"
        return Decoded(delivery.topic, [], [UnreadableError("unknown-event", detail)])
    return _decode_entries(delivery, found)


def _entries(body: bytes, payload: bytes) -> list[tuple[bytes, bytes]]:
    """Return each user's entry, and the delivery with it alone."""
    raws = split_payload(payload)
    alone = [body] if len(raws) == 1 else _restrict(body, payload, raws)
    return list(zip(raws, alone, strict=True))


def _decode_entries(
    delivery: Delivery, entries: Sequence[tuple[UserEntry | bytes, bytes]]
) -> Decoded:
    events: list[NewEvent] = []
    rejected: list[UnreadableError] = []
    nth: Counter[tuple[str, str]] = Counter()
    for entry, payload in entries:
        try:
            event = _event(delivery, entry, payload, nth)
        except UnreadableError as error:
            rejected.append(error)
        else:
            events.append(event)
    return Decoded(delivery.topic, events, rejected)


def _event(
    delivery: Delivery, given: UserEntry | bytes, alone: bytes, nth: Counter[tuple[str, str]]
) -> NewEvent:
    entry = given if isinstance(given, UserEntry) else read_entry(given)
    kind = _KINDS[delivery.type]
    application_id = entry.identifier("application_id", "applicationId") or delivery.application_id
    user_id = entry.identifier("user_id", "userId", "_id", "id")
    if user_id is None:
        raise UnreadableError("no-user-id", "a user without a usable `user_id`, `_id` or `id`")
    if application_id is None:
        raise UnreadableError("no-application-id", "a user of no, or of several, applications")
    occurred_at = delivery.occurred_at or entry.time()
    if occurred_at is None:
        raise UnreadableError("no-time", "no usable `created_timestamp`, and no `updated_at`")
    # Hashed once: identity and digest, which the log keeps, are made of this with the user's key.
    content = hashlib.sha256(bytes((kind,)) + _encode(entry)).digest()
    user = (application_id, user_id)
    identity, dated = _identity(delivery, occurred_at, content, nth[user])
    nth[user] += 1
    about = (application_id, user_id, kind, occurred_at, identity, content, alone)
    return NewEvent(*about, dated=dated)


def _identity(
    delivery: Delivery, occurred_at: datetime, content: bytes, nth: int
) -> tuple[bytes, bool]:
    """Name the event within its user, and return whether its time is part of the name.

    By the platform's id, else by its content and time. A delivery may hold the same user more
    than once below one id: `nth` tells these apart.
    """
    if delivery.event_id is not None:
        return f"id\0{delivery.event_id}\0{nth}".encode(), False
    return b"content\0" + occurred_at.isoformat().encode() + b"\0" + content, True


def _restrict(body: bytes, payload: bytes, raws: list[bytes]) -> list[bytes]:
    """Return for each entry the delivery with it alone in its payload, every other byte as it was.

    The decoder does not report where in the body the payload stands, so each occurrence of its
    bytes is tried until reading the body without them finds the payload empty.
    """
    if not raws:
        raise UnreadableError("no-users", "`payload` is an empty list")
    start = -1
    for _ in range(_OCCURRENCES_MAX):
        start = body.find(payload, start + 1)
        if start < 0:
            break
        before, after = body[:start], body[start + len(payload) :]
        if read_delivery(before + b"[]" + after).payload == b"[]":
            return [b"".join((before, b"[", raw, b"]", after)) for raw in raws]
    raise UnreadableError("no-users", "the place of `payload` in the body can't be found")
