"""Deliveries as the platform sends them, from a seed: full snapshots of users who live a little.

Every user is created, then updated: names and phones change now and then, some users are blocked
and unblocked, deleted and restored, and one event in twenty occurred before the one before it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from api.webhook.decode import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.events import Appended, NewEvent
    from eventstore.log import EventLog

APPLICATION = "65f0c1a2b3d4e5f601234567"
START_MS = 1_700_000_000_000
STEP_MS = 40
BATCH = 2_000
_SAMPLE = resources.files("api.webhook").joinpath("samples/2-update.json").read_bytes()
_PLACES = {
    b'"type": "update"': b'"type": "%(kind)b"',
    b"1686649727621": b"%(at_ms)d",
    b"000000000000000000000001": APPLICATION.encode(),
    b"6487fc9f66a6031a8b68f523": b"%(user_id)b",
    b"2023-06-13T05:20:31.356Z": b"%(time)b",
    b"8285462419": b"%(phone)010d",
    b'"Salman"': b'"%(first)b"',
    b'"Saudagar"': b'"%(last)b"',
    b"salmansaudagar@gofynd.com": b"%(first)b.%(last)b@example.org",
    b"salmansaudagar_gofynd_com_31354": b"%(first)b_%(last)b",
    b'"active": true,\n"archive"': b'"active": %(active)b,\n"archive"',
    b'"__v": 0': b'"__v": %(version)d',
}
_FIRST = [b"Asha", b"Bela", b"Chitra", b"Dev", b"Esha", b"Farid", b"Gita", b"Hari", b"Indu", b"Jai"]
_LAST = [b"Kapoor", b"Lal", b"Mehta", b"Nair", b"Oza", b"Patel", b"Rao", b"Sethi", b"Tiwari"]


def _template() -> bytes:
    text = _SAMPLE.replace(b"%", b"%%")
    for place, filling in _PLACES.items():
        assert place in text, place
        text = text.replace(place, filling)
    return text


_TEMPLATE = _template()


def user_id(number: int) -> str:
    """Return the id of the nth user, as the platform's look."""
    return hashlib.blake2b(number.to_bytes(8), digest_size=12).hexdigest()


class Shape(NamedTuple):
    """How much to make."""

    events: int
    users: int
    seed: int = 1


def deliveries(shape: Shape) -> Iterator[bytes]:
    """Make the bodies of as many deliveries as there are to be events."""
    chance = random.Random(shape.seed)
    versions = [0] * shape.users
    for n in range(shape.events):
        number = n if n < shape.users else chance.randrange(shape.users)
        yield delivery(number, versions[number], START_MS + n * STEP_MS, chance.random())
        versions[number] += 1


def delivery(number: int, version: int, at_ms: int, luck: float) -> bytes:
    """Make the nth user's delivery of a version."""
    kind = b"create" if version == 0 else b"delete" if luck < 0.02 else b"update"
    if luck > 0.95:
        at_ms -= 400_000_000  # occurred before what has been delivered already
    changed = number + version // 3
    return _TEMPLATE % {
        b"kind": kind,
        b"at_ms": at_ms,
        b"user_id": user_id(number).encode(),
        b"time": b"2023-11-%02dT%02d:%02d:31.356Z" % (1 + number % 28, version % 24, changed % 60),
        b"phone": 6_000_000_000 + number * 7 + version // 5,
        b"first": _FIRST[changed % len(_FIRST)],
        b"last": _LAST[number % len(_LAST)],
        b"active": b"false" if 0.02 < luck < 0.06 else b"true",
        b"version": version,
    }


def events_of(body: bytes) -> list[NewEvent]:
    """Read a delivery as the service does."""
    decoded = decode(body)
    assert not decoded.rejected, decoded.rejected
    return decoded.events


async def fill(log: EventLog, shape: Shape) -> None:
    """Append everything; while a batch is written, the next one is made."""
    made = deliveries(shape)
    writing: asyncio.Task[list[Appended]] | None = None
    while bodies := list(itertools.islice(made, BATCH)):
        batch = [event for body in bodies for event in events_of(body)]
        if writing:
            await writing
        writing = asyncio.create_task(log.append(batch))
        await asyncio.sleep(0)  # let it be on its way
    if writing:
        await writing
