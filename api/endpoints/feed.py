"""The log as a feed of CloudEvents: page by page, or as a stream of server-sent events.

Each reader reads at its own pace from the database, so a slow one holds up no other and nothing is
kept in memory for it. A reader at the end waits for `Tail`, which polls the log's end for all of
them together; those who go on from the same position at once share one page.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from api.endpoints.cloud_events import CloudEvent, Events, opening
from api.web import timeouts
from api.web.lasting import first
from api.web.middlewares import ID, mark
from api.web.params import PARTITION, PLACE, Limit, Parameters
from api.web.problems import Problem, bad_parameter
from eventstore.errors import LogError, PlaceLostError
from eventstore.events import PIECE_BYTES, Place, Position
from eventstore.group_commit import SharedReads
from projections.fold.folder import Folder
from projections.fold.timeslice import Timeslices

if TYPE_CHECKING:
    from api.web.lasting import Lasting
    from eventstore.log import EventLog

_POLL_S = 0.25
_HEARTBEAT_S = 15
_SLOW_S = 30
_RETRY_MS = 2_000
_LOST = (
    "It is another log, or was restored to an earlier moment: compare what you have with it, and go"
    " on after its end, or begin again at the start"
)
_PAGE_ROWS = 100
_MESSAGES_BYTES = 1 << 16
STREAM = "text/event-stream"
_STREAM_HEADERS = {
    hdrs.CONTENT_TYPE: STREAM,
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",
}
_encode = msgspec.json.Encoder().encode


class FeedParameters(Parameters, frozen=True):
    """A part of the log."""

    after: Annotated[
        Place | None,
        PLACE,
        Meta(
            description="`next` of the page before, or a position; if not given, from the first",
            examples=["0:1"],
        ),
    ] = None
    partition: Annotated[
        int | None,
        PARTITION,
        Meta(description="which part of the log, if there are several and no `after`"),
    ] = None
    limit: Limit = 0
    wait_s: Annotated[
        int,
        Meta(ge=0, le=60, description="if there is nothing yet, wait for so many seconds at most"),
    ] = 0
    resumed: Annotated[
        Place | None,
        PLACE,
        Meta(
            description="of a stream: the same as `after`, and before it",
            examples=["0:1"],
            extra={"location": "header"},
        ),
    ] = msgspec.field(default=None, name="Last-Event-ID")


class Tail:
    """Polls the end of the log while readers wait for it to move."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting = 0
        self._ends: dict[int, int] = {}
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def is_beyond(self, position: Position) -> bool:
        """Say whether an event behind a position has been seen."""
        return self._ends.get(position.partition, 0) > position.number

    def ends_at(self, position: Position) -> bool:
        """Say whether the end is polled now, and was just there a moment ago."""
        watched = self._task is not None and self._waiting > 0
        return watched and self._ends.get(position.partition) == position.number

    async def beyond(self, position: Position, timeout_s: float) -> bool:
        """Wait until there is an event behind a position; False after the timeout."""
        self._waiting += 1
        if self._task is None:
            self._task = asyncio.create_task(self._poll(), name="tail")
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_beyond(position):
                    await self._moved.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._waiting -= 1

    async def _poll(self) -> None:
        try:
            while self._waiting:
                try:
                    heads = await self._log.heads()
                except LogError:
                    self._ends = {}  # what was seen before does not count any more
                else:
                    ends = {one.position.partition: one.position.number for one in heads}
                    if ends != self._ends:
                        self._ends = ends
                        self._moved.set()
                        self._moved = asyncio.Event()
                await asyncio.sleep(_POLL_S)
        finally:
            self._ends = {}
            self._task = None  # also after a defect: the next who waits begins another

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class Page:
    """A part of one partition's log, opened once for all who read it."""

    def __init__(self, events: list[CloudEvent], places: list[Place], after: Place) -> None:
        """`places` are those of the events, `after` that of the one before."""
        self.next = places[-1] if places else after
        self.answer = Events(events, str(self.next))
        self._places = places

    @cached_property
    def messages(self) -> list[bytes]:
        """What a stream sends of it, in pieces of some size."""
        pieces: list[bytes] = []
        piece = bytearray()
        for place, event in zip(self._places, self.answer.events, strict=True):
            piece += _message(place, event)
            if len(piece) > _MESSAGES_BYTES:
                pieces.append(bytes(piece))
                piece.clear()
        return [*pieces, bytes(piece)] if piece else pieces


class Feed:
    """Requests for the log; streams end when it is `stopping`."""

    def __init__(self, log: EventLog, lasting: Lasting, page_bytes_max: int) -> None:
        self._log = log
        self._lasting = lasting
        self._page_bytes_max = page_bytes_max
        self._tail = Tail(log)
        # Pages are read one after the other, so that ten readers who are far behind don't hold up
        # the others ten times as long as one does.
        self._pages: SharedReads[tuple[Place, int], Page] = SharedReads(
            "page", self._read, asyncio.Lock()
        )
        self.stopping = asyncio.Event()

    async def events(
        self, request: web.Request, given: FeedParameters
    ) -> Events | web.StreamResponse:
        """Answer what is in the log, by page or, if that is what is accepted, as a stream."""
        streamed = STREAM in request.headers.get(hdrs.ACCEPT, "")
        begin = self._begin(given, resumed=given.resumed if streamed else None)
        try:
            if streamed:
                return await self._stream(request, begin, given.limit)
            return await self._page_or_wait(request, begin, given)
        except PlaceLostError as error:
            raise Problem(409, "Place lost", f"{error}. {_LOST}") from None

    async def _page_or_wait(
        self, request: web.Request, begin: Place, given: FeedParameters
    ) -> Events:
        limit, wait_s, at = given.limit, given.wait_s, begin.position
        timeouts.extend(request, wait_s)
        if not wait_s or not self._tail.ends_at(at):
            page = await self.page(begin, limit)
            if page.answer.events or not wait_s:
                return page.answer
        await self._lasting.wait(request, lambda: self._tail.beyond(at, wait_s))
        return (await self.page(begin, limit)).answer

    def _begin(self, given: FeedParameters, resumed: Place | None) -> Place:
        """Return the place to go on after."""
        partition, after = given.partition, resumed or given.after
        if after is None and partition is None and self._log.partitions > 1:
            raise bad_parameter("partition", f"needed: 0 to {self._log.partitions - 1}")
        if after and partition not in (None, after.position.partition):
            raise bad_parameter("partition", "not that of the position")
        return after or Place(Position(partition or 0, 0))

    async def close(self) -> None:
        """Stop waiting for events."""
        await self._tail.close()

    async def page(self, after: Place, limit: int) -> Page:
        """Return what follows a place: at most `limit` events, and so many bytes, or one.

        PlaceLostError if the place is none of this log.
        """
        return await self._pages.get((after, limit))

    async def _read(self, where: tuple[Place, int]) -> Page:
        after, limit = where
        partition = after.position.partition
        folder = Folder(partition, self._log.keyring)
        rows = await self._log.page_after(after.position, limit, self._page_bytes_max)
        after = await self._log.check_place(after, rows)
        events = await Timeslices().run(opening(rows, partition, folder, self._page_bytes_max))
        if any(event.dataerror for event in events):  # of the events, or is it the master key?
            await self._log.ready()
        places = [
            Place(Position(partition, row["position"]), row["leaf"][:PIECE_BYTES])
            for row in rows[: len(events)]
        ]
        return Page(events, places, after)

    async def _stream(self, request: web.Request, begin: Place, limit: int) -> web.StreamResponse:
        """Send a page and all that follows, until either side or the database goes away."""
        async with self._lasting.streaming(request) as revoked:
            page = await self.page(begin, limit)
            timeouts.lift(request)
            response = web.StreamResponse(headers=_STREAM_HEADERS)
            mark(response.headers, request[ID])
            await response.prepare(request)
            if request.method != hdrs.METH_HEAD:
                with contextlib.suppress(ConnectionError, LogError):
                    await self._send_pages(request, response, page, revoked)
            return response

    async def _send_pages(
        self,
        request: web.Request,
        response: web.StreamResponse,
        page: Page,
        revoked: asyncio.Event,
    ) -> None:
        await _send(request, response, b"retry: %d\n\n" % _RETRY_MS)
        while not self.stopping.is_set() and await self._lasting.still_open(request):
            for piece in page.messages:
                await _send(request, response, piece)
            found = await first(
                self._next_page(request, response, page.next), revoked.wait(), self.stopping.wait()
            )
            if found is None:
                return
            page = found[0]

    async def _next_page(
        self, request: web.Request, response: web.StreamResponse, after: Place
    ) -> Page:
        """Wait for more, but send a sign of life in time; return what there is."""
        at = after.position
        if not self._tail.is_beyond(at) and not await self._tail.beyond(at, _HEARTBEAT_S):
            await _send(request, response, b":\n\n")
        return await self.page(after, _PAGE_ROWS)


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write; ConnectionError if the reader takes nothing for too long, or is gone."""
    try:
        async with asyncio.timeout(_SLOW_S):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # ending it in order would wait for the reader again
        raise ConnectionError from None


def _message(place: Place, event: CloudEvent) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        str(place).encode(),
        event.type.encode(),
        _encode(event),
    )
