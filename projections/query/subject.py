"""Everything that is held about one person, as one JSON document, a piece at a time."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from eventstore import read
from eventstore.errors import SealBrokenError
from eventstore.events import Kind, Position
from eventstore.postgres import statements
from projections.query.formats import rfc3339
from projections.query.search import EVER
from projections.query.users import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from eventstore.audit import Audited
    from eventstore.events import Stream
    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine, Quarantined
    from projections.query.users import ReadModel

_SQL = statements.load("projections.query")
_PAGE_ROWS = 500
_encode = msgspec.json.Encoder().encode


class Subject:
    """Collects what is held about a user; nothing of anybody else is in it."""

    def __init__(
        self, log: EventLog, quarantine: Quarantine, read_model: ReadModel, stream: Stream
    ) -> None:
        self._log = log
        self._quarantine = quarantine
        self._read_model = read_model
        self._stream = stream
        # How much was found in the document that does not open, and is there without content.
        self.unopened = 0

    async def exists(self) -> bool:
        """Say whether anything is held: events, or something in quarantine."""
        known = await self._log.knows(self._stream)
        return known or await self._quarantine.has(self._stream)

    async def document(self) -> AsyncIterator[bytes]:
        """Yield the document.

        Its members: who it is about and when it was made; `user`, as `GET` answers it; `history`;
        `deliveries`, each event as the platform sent it; `quarantine`; `audit`, what was done about
        the user. Times are RFC 3339 in UTC. A delivery or body that is no UTF-8 is in base64, below
        another name; null, if it does not open.
        """
        stream = self._stream
        about = {
            "application_id": stream.application_id,
            "user_id": stream.user_id,
            "made_at": rfc3339(datetime.now(UTC)),
            "erased": await self._log.is_erased(stream),
            "parked": await self._read_model.stale(stream),
            "user": await self._read_model.user(stream),
        }
        yield _encode(about)[:-1]
        for name, items in (
            ("history", self._history()),
            ("deliveries", self._deliveries()),
            ("quarantine", self._quarantined()),
            ("audit", self._audit()),
        ):
            yield b',\n"%b":[' % name.encode()
            first = True
            async for item in items:
                yield b"\n" if first else b",\n"
                yield _encode(item)
                first = False
            yield b"]"
        yield b"}"

    async def _history(self) -> AsyncIterator[object]:
        after = None
        while True:
            page = await self._read_model.history(
                self._stream, page=Page(limit=_PAGE_ROWS, after=after)
            )
            for entry in page.entries:
                yield entry
            if page.next is None:
                return
            after = bytes.fromhex(page.next)

    async def _deliveries(self) -> AsyncIterator[object]:
        stream, after = self._stream, (EVER, 0)
        where = (stream.partition, stream.stream_id)
        while True:
            async with self._log.connection() as connection:
                rows = await connection.fetch(_SQL["events_of_user"], *where, *after, _PAGE_ROWS)
            for row in rows:
                yield {
                    "position": str(Position(stream.partition, row["position"])),
                    "event_type": Kind(row["kind"]).label,
                    "occurred_at": rfc3339(row["occurred_at"]),
                    "recorded_at": rfc3339(row["recorded_at"]),
                    **_json_or_base64("delivery", self._payload(row)),
                }
            if len(rows) < _PAGE_ROWS:
                return
            after = rows[-1]["occurred_at"], rows[-1]["position"]

    def _payload(self, row: asyncpg.Record) -> bytes | None:
        try:
            return read.open_event(row, self._stream.partition, self._log.keyring).payload
        except SealBrokenError:
            self.unopened += 1
            return None

    async def _quarantined(self) -> AsyncIterator[object]:
        async for about, body in self._quarantine.of_user(self._stream):
            self.unopened += body is None
            yield _held(about) | _text_or_base64("body", body)

    async def _audit(self) -> AsyncIterator[object]:
        for row in await self._log.audit.of_user(self._stream):
            yield _done(row)


def _held(about: Quarantined) -> dict[str, Any]:
    found = msgspec.structs.asdict(about)
    return found | {name: rfc3339(found[name]) for name in ("first_seen", "last_seen")}


def _done(row: Audited) -> dict[str, Any]:
    return {
        "number": str(row.at),
        "recorded_at": rfc3339(row.recorded_at),
        "position": str(row.position) if row.position else None,
        **msgspec.structs.asdict(row.act),
    }


def _json_or_base64(name: str, payload: bytes | None) -> dict[str, Any]:
    """Return a delivery as it is, if it is JSON throughout; what is never decoded may not be."""
    if payload is None:
        return {name: None}
    try:
        payload.decode()
        msgspec.json.decode(payload)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return {f"{name}_base64": base64.b64encode(payload).decode()}
    return {name: msgspec.Raw(payload)}


def _text_or_base64(name: str, body: bytes | None) -> dict[str, Any]:
    if body is None:
        return {name: None}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(body).decode()}
