"""Events as they go into the log, and what a log and the fold make of deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from api.webhook.decode import decode
from eventstore.audit import Actor
from eventstore.events import Kind, NewEvent, Position, RecordedEvent, Stream
from eventstore.sealing.keys import DataKey
from projections.fold.events import read_event
from projections.fold.history import HistoryEntry, replay
from tests.support.deliveries import APP, T0

if TYPE_CHECKING:
    from collections.abc import Iterable

    from projections.fold.events import UserEvent
    from projections.fold.state import UserState

_STARTED = datetime(2024, 1, 1, tzinfo=UTC)
# Who erases users in tests.
BY = Actor("command", "tests")
# The key of every user here.
KEY = DataKey.of(bytes(32))


def event(user_id: str = "u", name: str = "1", content: str = "", **changed: Any) -> NewEvent:
    """Make an event whose identity and, unless given, content are its name."""
    given: dict[str, Any] = {
        "application_id": APP,
        "user_id": user_id,
        "kind": Kind.UPDATED,
        "occurred_at": T0,
        "identity": name.encode(),
        "content": (content or name).encode(),
        "payload": f"payload of {name}".encode(),
    }
    return NewEvent(**{**given, **changed})


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
            KEY.identity(event.identity),
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
