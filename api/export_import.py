"""The log as lines, out and in again: one delivery a line.

A line of an export is the delivery, with one member put in front for what the delivery itself
does not have: `"userlog": {"position", "recorded_at"}`. So a line is still a delivery, and an
import brings the times back. Of an erased user only that member is left, and what is in
quarantine is a line of its own kind. Any file of plain deliveries can be imported as well.

Anybody can write a file, so lines about erased users are left out unless erasures are asked for.

An import can be repeated: what is there already is a duplicate.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from api.webhook.decode import UNLIMITED, Decoded, decode
from api.webhook.ingest import conflicting
from eventstore.events import Kind, NewEvent, Outcome, Position, RecordedEvent, Unreadable
from projections.query.formats import rfc3339

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from eventstore.audit import Actor
    from eventstore.events import Stream
    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine, Quarantined

_PAGE_ROWS = 1_000
_CHUNK_LINES = 1_000
_LABELS = {kind.label: kind for kind in Kind}
_PREFIX = b'{"userlog":{'


# What the database takes: no NUL in a text, and times with an offset.
_Text = Annotated[str, Meta(pattern=r"\A[^\0]*\Z")]
_Time = Annotated[datetime, Meta(tz=True)]


class Held(msgspec.Struct, frozen=True):
    """A delivery in quarantine, its body in base64."""

    reason: _Text
    detail: _Text
    first_seen: _Time
    last_seen: _Time
    times_seen: int
    body: bytes
    headers: dict[_Text, _Text] = {}
    application_id: _Text | None = None
    user_id: _Text | None = None


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a line holds beside the delivery; for an erased user's event, all there is."""

    position: str | None = None
    recorded_at: _Time | None = None
    event: str | None = None
    application_id: _Text = ""
    user_id: _Text = ""
    occurred_at: _Time | None = None
    after_erasure: bool = False
    quarantined: Held | None = None


class _Line(msgspec.Struct, frozen=True):
    userlog: Member


class Imported(msgspec.Struct):
    """What an import did, in events; `quarantined` in deliveries and entries of some.

    `left_out` are lines about erased users, where erasures were not asked for.
    """

    appended: int = 0
    duplicates: int = 0
    erased: int = 0
    ignored: int = 0
    quarantined: int = 0
    left_out: int = 0


async def export_lines(
    log: EventLog, quarantine: Quarantine, after: dict[int, int]
) -> AsyncIterator[bytes]:
    """Yield the log after these positions (number by partition), then the quarantine.

    In order of recording, so that it can be read into any number of partitions.
    """
    pages = [_Pages(log, partition, after.get(partition, 0)) for partition in range(log.partitions)]
    for page in pages:
        await page.fill()
    while (first := min((p for p in pages if p.rows), key=_recorded, default=None)) is not None:
        yield _line(first.rows.pop())
        await first.fill()
    for key in await quarantine.keys(None):
        found = await quarantine.show(key)
        if found is not None:
            yield _held_line(*found)


class _Pages:
    """One partition's events, a page at a time, the next one last."""

    def __init__(self, log: EventLog, partition: int, after: int) -> None:
        self._log = log
        self._after = Position(partition, after)
        self._ended = False
        self.rows: list[RecordedEvent] = []

    async def fill(self) -> None:
        """Read the next page when the present one is used up."""
        if self.rows or self._ended:
            return
        page = await self._log.read(self._after, _PAGE_ROWS)
        self._ended = len(page) < _PAGE_ROWS
        if page:
            self._after = page[-1].position
            self.rows = page[::-1]


def _recorded(page: _Pages) -> tuple[datetime, Position]:
    return page.rows[-1].recorded_at, page.rows[-1].position


def _line(event: RecordedEvent) -> bytes:
    about = {"position": str(event.position), "recorded_at": rfc3339(event.recorded_at)}
    if event.payload is not None:
        member = msgspec.json.encode({"userlog": about})
        body = event.payload.translate(None, b"\r\n").lstrip()  # none inside a JSON string
        return member[:-1] + b"," + body[1:]
    erased = {
        **about,
        "event": event.kind.label,
        "application_id": event.stream.application_id,
        "user_id": event.stream.user_id,
        "occurred_at": rfc3339(event.occurred_at),
        "after_erasure": event.after_erasure,
    }
    return msgspec.json.encode({"userlog": erased})


def _held_line(about: Quarantined, body: bytes) -> bytes:
    held = msgspec.structs.asdict(about)
    del held["id"]
    held["body"] = body
    return msgspec.json.encode({"userlog": {"quarantined": held}})


class Importer:
    """Reads lines into a log; `done` counts the outcomes."""

    def __init__(self, log: EventLog, quarantine: Quarantine, erasing: Actor | None = None) -> None:
        """Lines about erased users are taken if there is somebody who erases."""
        self._log = log
        self._quarantine = quarantine
        self._erasing = erasing
        self.done = Imported()

    async def take(self, lines: Iterable[bytes]) -> None:
        """Import some lines, in order; durable when this returns."""
        events: list[NewEvent] = []
        for line in lines:
            member = _member(line)
            if member is None:
                events += await self._delivery(line, None)
            elif member.quarantined is not None:
                await self._hold(member.quarantined)
            elif member.event is None:
                events += await self._delivery(_without_member(line), member.recorded_at)
            elif self._erasing is None:
                self.done.left_out += 1
            else:
                await self._append(events)
                events = []
                await self._erased(member, member.event, self._erasing)
        await self._append(events)

    async def _delivery(self, body: bytes, recorded_at: datetime | None) -> list[NewEvent]:
        decoded: Decoded = decode(body, UNLIMITED)
        if decoded.rejected:
            self.done.quarantined += len(await self._quarantine.put_all(decoded.rejected))
        elif not decoded.events:
            self.done.ignored += 1
        return [msgspec.structs.replace(e, recorded_at=recorded_at) for e in decoded.events]

    async def _append(self, events: list[NewEvent]) -> None:
        if not events:
            return
        answers = await self._log.append(events)
        outcomes = [answer.outcome for answer in answers]
        self.done.appended += outcomes.count(Outcome.APPENDED)
        self.done.duplicates += outcomes.count(Outcome.DUPLICATE)
        if conflicts := conflicting(events, answers):
            self.done.quarantined += len(await self._quarantine.put_all(conflicts))

    async def _erased(self, member: Member, label: str, by: Actor) -> None:
        """Record an event of which nothing but its time is left."""
        stream = self._log.stream(member.application_id, member.user_id)
        is_erased = await self._log.is_erased(stream)
        if label == Kind.ERASED.label:
            await self._erase(stream, by, member.recorded_at)
        elif is_erased and not member.after_erasure:
            self.done.duplicates += 1  # an earlier run of this import has been here
        elif member.occurred_at is not None:
            about = (member.application_id, member.user_id, _LABELS[label], member.occurred_at)
            name = f"import\0{member.position}".encode()
            await self._append([NewEvent(*about, name, b"", None, member.recorded_at)])

    async def _erase(self, stream: Stream, by: Actor, recorded_at: datetime | None) -> None:
        found = await self._log.erase(stream, by, recorded_at=recorded_at)
        if found.position is None:
            self.done.duplicates += 1
        else:
            self.done.erased += 1

    async def _hold(self, held: Held) -> None:
        user = (held.application_id, held.user_id)
        user = user if None not in user else (None, None)
        one = Unreadable(held.body, held.reason, held.detail, *user)
        self.done.quarantined += len(await self._quarantine.put_all([one], held.headers))


def _member(line: bytes) -> Member | None:
    """Return what an export put in front; None for a plain delivery, and for what no export made.

    That is decoded as a delivery, so it is kept in quarantine.
    """
    if not line.startswith(_PREFIX):
        return None
    try:
        found = msgspec.json.decode(line, type=_Line).userlog
        recorded_at, occurred_at = _cut(found.recorded_at), _cut(found.occurred_at)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return None
    found = msgspec.structs.replace(found, recorded_at=recorded_at, occurred_at=occurred_at)
    alone = found.event in _LABELS or found.quarantined is not None
    return found if alone or (found.event is None and b"}," in line) else None


def _cut(time: datetime | None) -> datetime | None:
    """Return a time in UTC, cut to the millisecond, as the log has all times."""
    if time is None:
        return None
    time = time.astimezone(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _without_member(line: bytes) -> bytes:
    return b"{" + line[line.index(b"},") + 2 :]


def chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group lines, leaving out empty ones."""
    chunk: list[bytes] = []
    for line in lines:
        if stripped := line.strip():
            chunk.append(stripped)
        if len(chunk) == _CHUNK_LINES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
