"""Connections: how many there may be, and how malformed requests are refused.

aiohttp quotes bad requests in its answers, and logs each as an error. A request may hold personal
data, and an error is for an operator to look at.
"""

from __future__ import annotations

import resource
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from api.observe.logs import ThrottledLog
from api.server.unread import Unread
from api.web.budgets import PLACE
from api.web.middlewares import REQUEST_ID, mark, new_id, without_quoting
from api.web.problems import Problem, unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from api.config.settings import Settings

    Handler = Callable[[Any], Awaitable[web.StreamResponse]]
    Factory = Callable[..., web.BaseRequest]

HEADERS_MAX = 64
# Of the first line of a request, and of each header.
LINE_BYTES_MAX = 8190
# Of all of them together, for as long as they are not complete.
HEAD_BYTES_MAX = 1 << 16
# Open files of a process that are neither connections from outside that count nor to the database:
# a few of its own, and twice the connections below that linger.
_OTHER_FILES = 80
# For the rest of a body that is not read, so that its sender sees the answer.
_LINGER_S = 1.0
_RETRY_AFTER_S = 5
# Connections whose sender is given that time although they were refused.
_LINGERING_MAX = 32
_log = structlog.stdlib.get_logger("userlog.http")


class Runner(web.AppRunner):
    """Runs an application behind such connections."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=_LINGER_S)
        self._settings = settings

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        return Server(made.request_handler, self._settings, made.request_factory)


class Server(web.Server):
    """Accepts as many connections as there may be, and closes idle ones.

    One too many takes the place of the one that has been idle for longest, so that a client that
    only holds connections keeps no other out.
    """

    def __init__(
        self, handler: Handler, settings: Settings, request_factory: Factory | None = None
    ) -> None:
        super().__init__(
            self._without_rest(without_quoting(handler)),
            request_factory=request_factory,
            access_log=None,
            lingering_time=_LINGER_S,
            keepalive_timeout=settings.idle_timeout_s,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,  # nothing is unpacked for a stranger
        )
        self._connections_max = settings.connections_max
        self._lingering = 0
        self._unread = Unread(_LINGERING_MAX, _LINGER_S)
        self.throttled = ThrottledLog()

    def __call__(self) -> _Connection:
        """Make the protocol of a new connection."""
        return _Connection(self, self._loop, self._kwargs)

    def _without_rest(self, handler: Handler) -> Handler:
        """Let the rest of a body be dropped that is not read.

        Of one that comes in chunks it is not known where it ends: aiohttp reads and drops it.
        """

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = await handler(request)
            content, transport = request.content, request.transport
            left = (request.content_length or 0) - content.total_bytes
            if not content.is_eof() and left > 0 and transport is not None:
                response.force_close()
                if self._unread.drop(transport, left):
                    content.feed_eof()
                    transport.pause_reading()  # aiohttp reads on where it sees a body end
            return response

        return answer

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """End all connections."""
        await super().shutdown(timeout)
        self._unread.close()

    def malformed(self, problem: str) -> Problem:
        """Make the answer to what is no request; it is logged, rate-limited."""
        request_id = new_id()
        about = {"problem": problem, "request_id": request_id}
        self.throttled.info(_log, "malformed request", problem, **about)
        detail = (
            f"not HTTP/1.1, or a head of more than {HEADERS_MAX} headers, {LINE_BYTES_MAX} bytes"
            f" in a line or {HEAD_BYTES_MAX} bytes"
        )
        headers = {"Connection": "close", REQUEST_ID: request_id}
        return Problem(400, "Malformed request", detail, headers=headers)

    def make_room(self) -> bool:
        """Return whether there is room for a new connection, made if need be."""
        if len(self._connections) < self._connections_max:
            return True
        self.throttled.warning(_log, "too many connections", connections_max=self._connections_max)
        for connection, transport in self._connections.items():
            if isinstance(connection, _Connection) and connection.is_idle():
                transport.abort()
                return True
        return False

    def used(self, connection: _Connection) -> None:
        """Let a connection that brought a request be the last to be closed for its idleness."""
        if transport := self._connections.pop(connection, None):
            self._connections[connection] = transport

    def refuse(self, transport: asyncio.Transport, problem: Problem) -> None:
        """Answer where there is no request, and end the connection.

        Ended at once, what is still coming may keep the answer from being read.
        """
        transport.write(_raw(problem))
        if self._lingering == _LINGERING_MAX:
            transport.close()
            return
        self._lingering += 1
        transport.write_eof()
        self._loop.call_later(_LINGER_S, self._end, transport)

    def _end(self, transport: asyncio.Transport) -> None:
        self._lingering -= 1
        transport.abort()


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_head_bytes", "_server")

    def __init__(
        self, server: Server, loop: asyncio.AbstractEventLoop, given: dict[str, Any]
    ) -> None:
        super().__init__(server, loop=loop, **given)
        self._server = server
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._server.make_room():
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        self._give_up(unavailable("too many connections; send it again", _RETRY_AFTER_S))

    def data_received(self, data: bytes) -> None:
        """Read what arrived; a head that does not end is too long."""
        super().data_received(data)
        if not self._waits_for_head():
            self._head_bytes = 0
            self._server.used(self)
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._give_up(self._server.malformed("EndlessHead"))

    def _waits_for_head(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def is_idle(self) -> bool:
        """Return whether it could be closed, and was not yet."""
        return self._waits_for_head() and not (
            self.transport is None or self.transport.is_closing()
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse a malformed request without quoting it."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        response = self._server.malformed(type(exc).__name__).response()
        mark(response.headers, response.headers[REQUEST_ID])
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop what is done for somebody who reads no answer any more."""
        request, task = self._current_request, self._task_handler
        super().connection_lost(exc)
        place = request.get(PLACE) if isinstance(request, web.Request) else None
        if task is not None and place is not None and place.leaves:
            task.cancel()

    def _give_up(self, problem: Problem) -> None:
        transport, self.transport = self.transport, None
        self.force_close()  # nothing more is read
        if transport is not None:
            self._server.refuse(transport, problem)


def _raw(problem: Problem) -> bytes:
    response = problem.response()
    status = HTTPStatus(response.status)
    response.headers.update({"Content-Length": str(response.content_length), "Connection": "close"})
    given = response.headers.get(REQUEST_ID)
    mark(response.headers, given or new_id())
    lines = [f"{name}: {value}" for name, value in response.headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} {status.phrase}", *lines, "", ""])
    return head.encode() + problem.body()


def fit_open_files(settings: Settings) -> Settings:
    """Allow as many open files as the connections need, or fewer connections if that can't be.

    Were all files taken by connections from outside, none could be had to the database.
    """
    reserved = settings.pool_connections_max + _OTHER_FILES
    wanted = settings.connections_max + reserved
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < wanted:
        allowed = wanted if most < 0 else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if not 0 <= allowed < wanted:
        return settings
    fewer = max(allowed - reserved, 1)
    _log.warning("few open files allowed", open_files_max=allowed, connections_max=fewer)
    return msgspec.structs.replace(settings, connections_max=fewer)
