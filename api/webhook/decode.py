"""From a delivery's bytes to the events that are in it, or the reason why there are none. Pure.

One body is bounded work, also from a sender who knows the secret: what is beyond a limit is found
by counting, before anything is decoded or copied, and long work can be interrupted.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from api.webhook.sizes import exceeding, has_more_values, may_be_too_deep, not_too_deep, values_in
from eventstore.events import Kind, NewEvent, Unreadable
from projections.deliveries.envelope import (
    PING_TOPIC,
    USER_TOPIC,
    Delivery,
    payload_of,
    read_delivery,
    read_entry,
    read_fast,
    split_payload,
    user_of,
    whose,
)
from projections.deliveries.values import UnreadableError, UserEntry
from projections.fold.events import unknown_names
from projections.fold.interruptible import run_at_once

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from projections.fold.interruptible import Work

_KINDS = {
    "create": Kind.CREATED,
    "update": Kind.UPDATED,
    "delete": Kind.DELETED,
}
_OCCURRENCES_MAX = 100
# Why a delivery that is more work than the limits allow is kept in quarantine.
BEYOND = "beyond-limits"
_encode = msgspec.json.Encoder(order="sorted").encode


class Limits(msgspec.Struct, frozen=True):
    """How much one delivery may be, far above what the platform sends.

    Entries; bytes of all entries, each with the envelope, as each is stored with it; values in an
    entry, which is decoded at once; and names of an entry's user that are unknown.
    """

    entries_max: int = 1_000
    events_bytes_max: int = 16 << 20
    entry_values_max: int = 20_000
    extra_names_max: int = 500


# For what the operator reads in, where no request waits.
UNLIMITED = Limits(*[1 << 62] * 4)


class Decoded(msgspec.Struct, frozen=True):
    """The events of a delivery, and what could not be read.

    `topic` is what it is about; of any but users there is nothing else. `rejected` is the delivery,
    or the entries of it, that could not be read; the rest of it is in `events`.
    """

    topic: str
    events: list[NewEvent]
    rejected: list[Unreadable]


def is_ping(body: bytes) -> bool:
    """Say whether a body is the platform's ping, which is answered without a signature."""
    try:
        return read_delivery(body).topic == PING_TOPIC
    except UnreadableError:
        return False


def decode(body: bytes, limits: Limits | None = None) -> Decoded:
    """Read a delivery; what can't be read is reported, never raised."""
    limits = limits or Limits()
    return decode_usual(body, limits) or run_at_once(decoding(body, limits))


def decode_usual(body: bytes, limits: Limits) -> Decoded | None:
    """Read a delivery as nearly all are: of one user, and small. None for any other."""
    if has_more_values(body, limits.entry_values_max) or may_be_too_deep(body):
        return None
    try:
        fast = read_fast(body)
        if fast is None or fast[0].topic != USER_TOPIC:
            return None
        return Decoded(USER_TOPIC, [_event(*fast, body, {}, limits)], [])
    except UnreadableError:
        return None


def decoding(body: bytes, limits: Limits) -> Work[Decoded]:
    """Read any delivery, as work that can be interrupted, after each entry if there are several."""
    topic = ""
    try:
        if has_more_values(body, limits.entry_values_max):
            _check_envelope(body, limits)
            yield
        delivery = read_delivery(body)
        topic = delivery.topic
        if topic != USER_TOPIC:
            return Decoded(topic, [], [])
        entries = yield from _entries(body, delivery, limits)
        if may_be_too_deep(body):
            yield from not_too_deep(body)
        return (yield from _decode_entries(delivery, entries, limits, len(body)))
    except UnreadableError as error:
        return Decoded(topic, [], [Unreadable(body, error.reason, error.detail)])


def _check_envelope(body: bytes, limits: Limits) -> None:
    """Refuse an envelope with more values than an entry may have, as it is decoded at once."""
    if values_in(body) - values_in(payload_of(body)) > limits.entry_values_max:
        raise _beyond("values in the envelope", limits.entry_values_max, "ENTRY_VALUES")


def _entries(
    body: bytes, delivery: Delivery, limits: Limits
) -> Work[Iterable[tuple[bytes, bytes]]]:
    """Return each user's entry, and the delivery with it alone."""
    payload = delivery.payload
    much = yield from exceeding(payload, limits.entries_max, limits.entry_values_max)
    if much == "entries":
        raise _beyond("entries", limits.entries_max, "DELIVERY_ENTRIES")
    yield
    raws = [] if much else split_payload(payload)
    if much or any(has_more_values(raw, limits.entry_values_max) for raw in raws):
        raise _beyond("values in an entry", limits.entry_values_max, "ENTRY_VALUES")
    if len(raws) == 1:
        return [(raws[0], body)]
    if len(payload) + len(raws) * (len(body) - len(payload)) > limits.events_bytes_max:
        what = "bytes of entries, each with the envelope"
        raise _beyond(what, limits.events_bytes_max, "DELIVERY_EVENTS_BYTES")
    before, after = yield from _around(body, payload, raws)
    return ((raw, b"".join((before, b"[", raw, b"]", after))) for raw in raws)


def _beyond(what: str, limit: int, setting: str) -> UnreadableError:
    return UnreadableError(BEYOND, f"more than {limit} {what} (USERLOG_{setting}_MAX)")


def _decode_entries(
    delivery: Delivery, entries: Iterable[tuple[bytes, bytes]], limits: Limits, body_bytes: int
) -> Work[Decoded]:
    """Read each entry. A delivery that is beyond a limit is rejected as a whole."""
    events: list[NewEvent] = []
    rejected: list[Unreadable] = []
    seen: dict[tuple[str, str], int] = {}
    for raw, payload in entries:
        if events or rejected:
            yield
        try:
            event = _event(delivery, read_entry(raw), payload, seen, limits)
        except UnreadableError as error:
            if error.reason == BEYOND and len(payload) != body_bytes:
                raise
            user = whose(delivery, raw) or (None, None)
            rejected.append(Unreadable(payload, error.reason, error.detail, *user))
        else:
            events.append(event)
    return Decoded(delivery.topic, events, rejected)


def _check_names(entry: UserEntry, limits: Limits) -> None:
    most = limits.extra_names_max
    if len(entry.user) > most and len(unknown_names(entry)) > most:
        raise _beyond("unknown fields of a user", most, "EXTRA_NAMES")


def _event(
    delivery: Delivery,
    entry: UserEntry,
    alone: bytes,
    seen: dict[tuple[str, str], int],
    limits: Limits,
) -> NewEvent:
    """Make an event; `seen` says how often each user was in the delivery before."""
    kind = _KINDS.get(delivery.type)
    if kind is None:
        detail = "a user event that is no create, update or delete"
        raise UnreadableError("unknown-event", detail)
    _check_names(entry, limits)
    application_id, user_id = user_of(delivery, entry)
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
    nth = seen.get(user, 0)
    seen[user] = nth + 1
    identity, dated = _identity(delivery, occurred_at, content, nth)
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


def _around(body: bytes, payload: bytes, raws: list[bytes]) -> Work[tuple[bytes, bytes]]:
    """Return what stands before and after the payload, byte for byte.

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
        if payload_of(before + b"[]" + after) == b"[]":
            return before, after
        yield
    raise UnreadableError("no-users", "the place of `payload` in the body can't be found")
