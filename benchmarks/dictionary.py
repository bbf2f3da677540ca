"""Make the dictionary of sealed columns from the documented samples, and measure what it saves.

Prints the dictionary's bytes with --write; else how large and how quick columns are with the one
that is shipped. A shipped dictionary never changes: columns are sealed with its version, so another
one is another version (eventstore/sealing/columns.py).
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from statistics import mean
from typing import TYPE_CHECKING

import msgspec
from data import Shape, deliveries

from api.webhook import samples
from api.webhook.decode import decode
from eventstore.events import Position, RecordedEvent, Stream
from eventstore.sealing.columns import ColumnKey
from projections.fold.events import read_event
from projections.fold.history import replay
from projections.sealed import entry_text, user_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = ColumnKey(bytes(32))
_AT = b"1686649727621"
# What changes in the documented update, one delivery after the other.
_CHANGES = (
    (b'"active": true,\n"archive"', b'"active": false,\n"archive"'),
    (b'"active": false,\n"archive"', b'"active": true,\n"archive"'),
    (b"salmansaudagar@gofynd.com", b"saudagarsalman@gofynd.com"),
    (b'"Salman"', b'"Saudagar"'),
    (b"8285462419", b"8285462420"),
    (b"2023-06-13T05:20:31.356Z", b"2023-06-14T05:20:31.356Z"),
)


def texts(bodies: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return what the columns of users and of history hold after some deliveries, by user."""
    users: dict[str, list[RecordedEvent]] = {}
    for number, body in enumerate(bodies, 1):
        for one in decode(body).events:
            recorded = RecordedEvent(
                Position(0, number),
                Stream.of(one.application_id, one.user_id, 1),
                one.kind,
                one.occurred_at,
                one.occurred_at,
                one.identity,
                one.payload,
            )
            users.setdefault(one.user_id, []).append(recorded)
    states: list[bytes] = []
    changes: list[bytes] = []
    for events in users.values():
        state, entries = replay(map(read_event, events))
        assert state
        states.append(user_text(state))
        changes += map(entry_text, entries)
    return states, changes


def dictionary() -> bytes:
    """Return what to ship: the rows of the samples, and of the documented update changed."""
    known = list(samples.load().values())
    body, at = known[1], int(_AT)
    states, _ = texts(known)
    for number, (old, new) in enumerate(_CHANGES, 1):
        body = body.replace(old, new).replace(b'"__v": %d' % (number - 1), b'"__v": %d' % number)
        known.append(body.replace(_AT, b"%d" % (at + number)))
    _, changes = texts(known)
    return b"\n".join([*states, *dict.fromkeys(changes)]) + b"\n"


def main() -> None:
    """Write the dictionary, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the dictionary to stdout")
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--smoke", action="store_true", help="a few events")
    given = parser.parse_args()
    if given.write:
        sys.stdout.buffer.write(dictionary())
        return
    events, users = (500, 100) if given.smoke else (given.events, given.users)
    found = dict(zip(("users", "history"), texts(deliveries(Shape(events, users))), strict=True))
    report = {name: _measure(rows) for name, rows in found.items()}
    print(msgspec.json.format(msgspec.json.encode(report), indent=1).decode())


def _measure(rows: list[bytes]) -> dict[str, float]:
    places = [uuid.uuid4().bytes for _ in rows]
    began = time.process_time()
    sealed = [_KEY.seal(row, place) for row, place in zip(rows, places, strict=True)]
    middle = time.process_time()
    for row, place in zip(sealed, places, strict=True):
        _KEY.open(row, place)
    ended = time.process_time()
    return {
        "rows": len(rows),
        "bytes": round(mean(map(len, rows))),
        "sealed_bytes": round(mean(map(len, sealed))),
        "seal_us": round((middle - began) / len(rows) * 1e6, 2),
        "open_us": round((ended - middle) / len(rows) * 1e6, 2),
    }


if __name__ == "__main__":
    main()
