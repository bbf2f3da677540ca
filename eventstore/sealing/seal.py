"""Sealing an event: what is appended can't be read without its user's key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from eventstore.sealing.keys import NO_PAYLOAD, context_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from eventstore.events import Kind, NewEvent, Stream
    from eventstore.sealing.keyring import StreamKey
    from eventstore.sealing.keys import Ciphers

# What lies beyond, the driver stores as an infinity, which does not come back as a time.
_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta(milliseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC, microsecond=999_000)

# What is sealed at once, and what sealing costs besides, as if it were bytes: about a millisecond.
_BYTES_AT_ONCE = 128 << 10
_BYTES_EACH = 2 << 10

# They last for all years that a datetime knows.
_MINUTE_BYTES = 4


class SealedEvent(NamedTuple):
    """An event ready to be appended.

    A tuple, because a batch of them is turned into columns for the database.
    """

    stream_id: uuid.UUID
    key_id: int
    kind: Kind
    occurred_at: datetime
    identity: bytes
    digest: bytes
    payload: bytes
    recorded_at: datetime | None
    stream: Stream
    key: StreamKey


def seal(event: NewEvent, stream: Stream, key: StreamKey, ciphers: Ciphers) -> SealedEvent:
    """Seal an event with its user's key; of an erased user's event no payload is kept.

    The identity of an event that a time is part of begins with its minute. So what happens
    together stands together in the index of identities, and appending touches the end of it.
    """
    minute = _minute(event.occurred_at) if event.dated else b""
    data_key, stream_id = key.data_key, stream.stream_id
    identity = minute + data_key.identity(event.identity)[len(minute) :]
    payload = NO_PAYLOAD
    if event.payload is not None and not key.erased:
        payload = data_key.seal(event.payload, context_of(stream_id, identity), ciphers)
    return SealedEvent(
        stream_id,
        key.key_id,
        event.kind,
        min(max(event.occurred_at, _FIRST), _LAST),
        identity,
        data_key.digest(event.content),
        payload,
        event.recorded_at,
        stream,
        key,
    )


async def seal_all(
    events: Sequence[NewEvent],
    streams: Sequence[Stream],
    keys: Sequence[StreamKey],
    ciphers: Ciphers,
) -> list[SealedEvent]:
    """Seal many; others of the event loop take their turn after some bytes.

    A key that is replaced meanwhile is found out by append(), as at any other time.
    """
    sealed: list[SealedEvent] = []
    size = 0
    for event, stream, key in zip(events, streams, keys, strict=True):
        if size > _BYTES_AT_ONCE:
            await asyncio.sleep(0)
            size = 0
        sealed.append(seal(event, stream, key, ciphers))
        size += _BYTES_EACH + len(event.payload or b"")
    return sealed


def _minute(at: datetime) -> bytes:
    return max(0, int(at.timestamp()) // 60).to_bytes(_MINUTE_BYTES)
