"""Deliveries to read, and what a log would make of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.webhook.decode import decode
from eventstore.events import NewEvent, Position, RecordedEvent, Stream
from projections.fold.events import read_event
from projections.fold.history import HistoryEntry, replay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from projections.fold.events import UserEvent
    from projections.fold.state import UserState

_ROOT = Path(__file__).parents[2]
CREATE, UPDATE, DELETE = (
    (_ROOT / "api/webhook/samples" / name).read_bytes()
    for name in ("1-create.json", "2-update.json", "3-delete.json")
)
DELETE_VERBATIM = (_ROOT / "tests/samples/delete-verbatim.json").read_bytes()
APPLICATION, USER = "000000000000000000000001", "6487fc9f66a6031a8b68f523"
AT_MS = 1686649727621
AT = datetime(2023, 6, 13, 9, 48, 47, 621000, tzinfo=UTC)
_STARTED = datetime(2024, 1, 1, tzinfo=UTC)


def entry(**fields: Any) -> dict[str, Any]:
    """An entry of a payload, of the usual user unless told otherwise."""
    return {"user": {"_id": USER, **fields}}


def envelope(payload: Any, type_: Any = "update", at: Any = AT_MS, **event: Any) -> dict[str, Any]:
    """A delivery in the delivered envelope; a `None` is left out."""
    about = {"name": "user", "type": type_, "created_timestamp": at, **event}
    about = {name: value for name, value in about.items() if value is not None}
    return {"event": about, "company_id": 1, "application_id": [APPLICATION], "payload": payload}


def delivery(*, type_: Any = "update", at: Any = AT_MS, id_: Any = None, **fields: Any) -> bytes:
    """A delivery about the usual user."""
    return encoded(envelope([entry(**fields)], type_, at, id=id_))


def encoded(value: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def spliced(value: Any, raw: bytes) -> bytes:
    """JSON in bytes, with these in the place of each text `@`."""
    return encoded(value).replace(b'"@"', raw)


def only(body: bytes) -> NewEvent:
    """Return the one event of a delivery in which nothing is wrong."""
    found = decode(body)
    assert [str(error) for error in found.rejected] == []
    (event,) = found.events
    return event


def reasons(body: bytes) -> list[str]:
    """Return why a delivery has nothing but what can't be read."""
    found = decode(body)
    assert found.events == []
    return [error.reason for error in found.rejected]


def record(events: Iterable[NewEvent]) -> list[RecordedEvent]:
    """Record events as a log does: the first of each identity, numbered in order of arrival."""
    firsts = {event.identity: event for event in reversed(list(events))}
    firsts = dict(reversed(firsts.items()))
    return [
        RecordedEvent(
            Position(0, number),
            Stream.of(event.application_id, event.user_id, 1),
            event.kind,
            event.occurred_at,
            _STARTED + timedelta(seconds=number),
            event.payload,
        )
        for number, event in enumerate(firsts.values(), start=1)
    ]


def read(*bodies: bytes) -> list[UserEvent]:
    """Decode deliveries about one user, record them and read them back."""
    return [read_event(event) for event in record(only(body) for body in bodies)]


def state_after(*bodies: bytes) -> UserState:
    """Return the user after these deliveries."""
    state, _ = replay(read(*bodies))
    assert state
    return state


def history_of(*bodies: bytes) -> list[HistoryEntry]:
    """Return the history that these deliveries make, in effective order."""
    return replay(read(*bodies))[1]


def short(value: object) -> str:
    """Name a parameter by how it starts."""
    return repr(value)[:40]
