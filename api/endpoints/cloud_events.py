"""Events of the log as CloudEvents, opened from its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from eventstore import read
from eventstore.events import Kind, Position
from projections.fold.poison import PoisonError
from projections.query.formats import EventType, PlaceText, PositionText, Time, rfc3339

if TYPE_CHECKING:
    import asyncpg

    from projections.fold.folder import Folder
    from projections.fold.interruptible import Work


class EventData(msgspec.Struct, frozen=True):
    """What an event carries: of the user's fields only those that are in it."""

    company_id: int | None
    state: dict[str, Any]


class CloudEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of the log, as CloudEvents 1.0.

    `data` is null if the user has been erased, or if the event can't be read: then `dataerror`
    has the reason.
    """

    specversion: str
    id: PositionText
    source: str
    type: EventType
    subject: str
    time: Time
    recordedtime: Time
    data: EventData | None
    dataerror: str | None = None


class Events(msgspec.Struct, frozen=True):
    """A part of one partition's log; `next` is what to give as `after` to go on.

    Its last part is a piece of the event's hash, by which another log is noticed, or one that was
    restored to before: then the answer is 409.
    """

    events: list[CloudEvent]
    next: PlaceText


def opening(
    rows: list[asyncpg.Record], partition: int, folder: Folder, bytes_max: int
) -> Work[list[CloudEvent]]:
    """Open events until they have so many bytes, which sealed ones don't tell; one at least."""
    events: list[CloudEvent] = []
    total = 0
    for row in rows:
        event, size = _event(row, partition, folder)
        total += size
        if events and total > bytes_max:
            break
        events.append(event)
        yield
    return events


def _event(row: asyncpg.Record, partition: int, folder: Folder) -> tuple[CloudEvent, int]:
    """Make an event of a row; return the bytes of its payload as well."""
    data, problem, size = None, None, 0
    if read.has_payload(row):
        try:
            event, size = folder.read_sized(row)
            data = EventData(event.company_id, event.fields)
        except PoisonError as error:
            problem = error.reason
    made = CloudEvent(
        specversion="1.0",
        id=str(Position(partition, row["position"])),
        source=f"/v1/applications/{quote(row['application_id'], safe='')}",
        type=Kind(row["kind"]).label,
        subject=row["user_id"],
        time=rfc3339(row["occurred_at"]),
        recordedtime=rfc3339(row["recorded_at"]),
        data=data,
        dataerror=problem,
    )
    return made, size
