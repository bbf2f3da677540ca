"""What surrounds every request: its id, limits, access, its log line, and the wait for the last.

`budgets` decides how many there may be, `timeouts` how long each may take, `tokens` what a token
opens, `error_answers` which answer an error becomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from http import HTTPStatus
from random import getrandbits
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiohttp import hdrs, web

from api.observe.logs import ThrottledLog
from api.web import timeouts
from api.web.budgets import ACCESS, PLACE, take
from api.web.error_answers import CANT_BE_ANSWERED, looks_like, problem_of, refusal_of
from api.web.params import Bounds, Parameters, Reader
from api.web.posted import posted
from api.web.problems import Problem, token_wrong
from api.web.route import JSON
from api.web.tokens import Scope
from eventstore.errors import LogError, SealBrokenError, UnavailableError
from projections.fold.poison import PoisonError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from multidict import CIMultiDict

    from api.observe.metrics import Metrics
    from api.web.budgets import Budget, Budgets
    from api.web.route import Route
    from api.web.tokens import Access, Tokens

    Handler = Callable[[Any], Awaitable[web.StreamResponse]]

REQUEST_ID = "X-Request-Id"
ID = web.RequestKey("id", str)
_GIVEN = re.compile(r"[\w.-]{1,64}", re.ASCII)
_NO_PARAMETERS = Parameters()
_NO_ROUTE = "no such path"
# On a path that there is, only a client with a token that is known gets these.
_WITH_TOKEN = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_encode = msgspec.json.Encoder().encode
_log = structlog.stdlib.get_logger("userlog.http")


def new_id() -> str:
    """Return an id that no other answer has."""
    return f"{getrandbits(128):032x}"


def id_of(request: web.BaseRequest) -> str:
    """Return the id that the client gave, or a new one if it gave none that can be taken."""
    given = request.headers.get(REQUEST_ID, "")
    return given if given and _GIVEN.fullmatch(given) else new_id()


def mark(headers: CIMultiDict[str], request_id: str) -> None:
    """Put on an answer what every answer carries. aiohttp would name its version and Python's."""
    headers[REQUEST_ID] = request_id
    headers[hdrs.SERVER] = "userlog"
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")


class Middlewares:
    """The stages that every request passes, from the outside in."""

    def __init__(
        self,
        metrics: Metrics,
        tokens: Tokens,
        budgets: Budgets,
        timeout_s: float,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        """`timeout_s` is for a request, from its head to its answer.

        `ready` raises a LogError if the log can't be used, with another master key for one.
        """
        self._metrics = metrics
        self._tokens = tokens
        self._reads = budgets.reads
        self._timeout_s = timeout_s
        self._ready = ready
        self._open_paths: frozenset[str] = frozenset()
        self._without_database: frozenset[str] = frozenset()
        self._delivery_path = ""
        self._inflight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._throttled = ThrottledLog()
        # Unbound, a logger is made anew for each line, logged or not.
        self._log = _log.bind()

    def add(self, router: web.UrlDispatcher, table: Iterable[Route[Any]], bounds: Bounds) -> None:
        """Let a router answer the requests of a table."""
        for route in table:
            # By default, an id with a brace matches nothing.
            path = route.path.replace("}", ":[^/]+}")
            for method in (route.method, *([hdrs.METH_HEAD] if route.method == "GET" else [])):
                router.add_route(method, path, _handler(route, bounds, self._reads))
            if route.scope is None:
                self._open_paths |= {route.path}
            if route.without_database:
                self._without_database |= {route.path}
            if route.delivery is not None:
                self._delivery_path = route.path

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request, give it its id, map its errors to answers, and log it."""
        request_id = id_of(request)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        request[ID] = request_id
        started = time.perf_counter()
        self._inflight += 1
        self._idle.clear()
        try:
            try:
                response = await self._limited(request, handler)
            except Exception as error:  # noqa: BLE001 - the last place to turn it into an answer
                response = self._refusal(await self._cause(error), request)
                # aiohttp keeps some with the request, and so all that they have passed: a circle.
                error.__traceback__ = None
            resource = request.match_info.route.resource
            route = resource.canonical if resource else _NO_ROUTE
            seconds = time.perf_counter() - started
            self._metrics.request(route, response.status, seconds)
            mark(response.headers, request_id)
            self._log_answer(request.method, route, response.status, seconds)
            return response
        finally:
            place = request.get(PLACE)
            if place is not None:
                place.give_back()
            self._inflight -= 1
            if not self._inflight:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Wait until no request is left, but not for longer; each answer closes its connection.

        aiohttp alone would not wait: once it stops it takes no more of a body that is arriving.
        """
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    async def _cause(self, error: Exception) -> Exception:
        """Return why something does not open: a master key that was rotated, it may be."""
        if isinstance(error, (PoisonError, SealBrokenError)):
            try:
                await self._ready()
            except LogError as found:
                return found
        return error

    def _refusal(self, error: Exception, request: web.Request) -> web.Response:
        """Return the answer to a request that failed.

        No variable of a frame that an error has passed may hold it: that is a circle, and what the
        frame holds, a body it may be, would stay until the garbage collector comes.
        """
        if request.path == self._delivery_path:
            self._metrics.refused(refusal_of(error))
        return self._problem(error, request).response()

    def _problem(self, error: Exception, request: web.Request) -> Problem:
        if isinstance(error, web.HTTPNotFound) and looks_like(request.path, self._delivery_path):
            detail = f"deliveries are posted to {self._delivery_path}"
            return Problem(404, "No such path", detail)
        return problem_of(error, self._throttled)

    def _log_answer(self, method: str, route: str, status: int, seconds: float) -> None:
        """Log a request without its contents."""
        if status == HTTPStatus.SERVICE_UNAVAILABLE:  # the platform repeats them
            self._throttled.warning(_log, "requests are refused", route=route, status=status)
            return
        about: dict[str, Any] = {"method": method, "route": route, "status": status}
        about["duration_ms"] = round(1000 * seconds, 1)
        if status < HTTPStatus.BAD_REQUEST:
            self._log.debug("request", **about)
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.warning("request", **about)
        elif status in _WITH_TOKEN and route != _NO_ROUTE:
            self._log.info("request", **about)
        else:  # a stranger may cause as many as they like
            self._throttled.info(self._log, "request", f"{route} {status}", **about)

    async def _limited(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound the time and require a token; once the service stops, close the connection."""
        request[timeouts.DEADLINE] = limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                if request.path not in self._open_paths and request.match_info.route.resource:
                    request[ACCESS] = await self._access(request)
                response = await handler(request)
                if self._stopping:
                    response.force_close()
                return response
        except TimeoutError:
            if not limit.expired():
                raise
            raise timeouts.expired(request, self._timeout_s) from None

    async def _access(self, request: web.Request) -> Access:
        """Require a bearer token; return what it opens."""
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        access = None
        if scheme.lower() == "bearer":
            try:
                access = await self._tokens.access(given.strip())
            except UnavailableError:
                remembered = self._tokens.remembered(given.strip())
                if remembered is None or request.path not in self._without_database:
                    raise
                access = remembered
        if access is None:
            raise token_wrong()
        return access


def _handler(route: Route[Any], bounds: Bounds, reads: Budget) -> Handler:
    """Require the route's scope, read its parameters, encode its answer."""
    strict = route.scope is not None
    reader = Reader(route.parameters, bounds, strict=strict)
    known = reader.parameters
    has_parameters = strict or bool(known)

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.scope:
            access = request[ACCESS]
            if not access.allows(route.scope, request.match_info.get("application_id")):
                raise Problem(
                    403,
                    "Not allowed",
                    "the token is valid, but its scopes or applications do not include this",
                )
            take(request, reads, access.token_id, leaves=route.scope is Scope.READ)
        given = _NO_PARAMETERS
        if has_parameters:
            query = await posted(request, known) if route.posted else request.query
            given = reader.read(query, request.headers)
        found = await route.call(request, given)
        if isinstance(found, web.StreamResponse):
            return found
        return web.Response(body=_encode(found), content_type=JSON)

    return handle


def without_quoting(handler: Handler) -> Handler:
    """Answer what aiohttp refuses by itself, say an unknown expectation, without quoting it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            known = "of the header Expect only 100-continue is understood"
            detail = known if error.status == HTTPStatus.EXPECTATION_FAILED else CANT_BE_ANSWERED
            response = Problem(error.status, error.reason, detail).response()
            mark(response.headers, id_of(request))
            return response

    return answer
