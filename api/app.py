"""The aiohttp application: routes, and what surrounds every request."""

from __future__ import annotations

import contextlib
import re
import time
from http import HTTPStatus
from random import getrandbits
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiohttp import hdrs, web

from api.endpoints.feed import Feed
from api.endpoints.handlers import Handlers
from api.observe.logs import Seldom
from api.observe.metrics import Metrics
from api.routes import WEBHOOK_PATH, Route, routes
from api.web import openapi
from api.web.inflight import IN_HAND, InHand
from api.web.params import NOTHING, Params
from api.web.problems import Problem, unavailable, unreadable
from api.web.timeouts import deadline
from api.web.tokens import Access, Tokens
from eventstore.errors import LogError, QueueFullError, UnavailableError
from projections.fold.poison import PoisonError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from api.config.secret_files import Secrets
    from api.observe.tracing import Tracing
    from api.runtime import Runtime

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_RETRY_AFTER_S = 5
_UNAVAILABLE = 503
_ACCESS = web.RequestKey("access", Access)
_encode = msgspec.json.Encoder().encode
_log = structlog.stdlib.get_logger("userlog.http")


def make_app(runtime: Runtime, secrets: Secrets, tracing: Tracing | None = None) -> web.Application:
    """Build the application upon an open runtime; secrets that are renewed count at once."""
    metrics = Metrics(runtime)
    in_hand = InHand(runtime.settings.requests_max, runtime.settings.bodies_bytes_max)
    handlers = Handlers(runtime, secrets, metrics, in_hand)
    tokens = Tokens(runtime.log.pool, secrets)
    feed = Feed(runtime)
    table = openapi.described(routes(handlers, feed))
    open_paths = frozenset(route.path for route in table if route.scope is None)
    app = web.Application(
        middlewares=[
            *([tracing.middleware()] if tracing else []),
            _around(metrics),
            in_hand.counted,
            deadline(runtime.settings.request_timeout_s),
            _authorize(tokens, open_paths),
        ],
        client_max_size=runtime.settings.body_bytes_max,
    )
    app[IN_HAND] = in_hand

    async def end_streams(_app: web.Application) -> None:
        feed.stopping.set()

    async def clean_up(_app: web.Application) -> None:
        await feed.close()
        await metrics.close()
        with contextlib.suppress(LogError):
            await tokens.note_use()

    app.on_shutdown.append(end_streams)
    app.on_cleanup.append(clean_up)
    for route in table:
        path = route.path.replace("}", ":[^/]+}")  # by default, an id with a brace matches nothing
        for method in (route.method, *([hdrs.METH_HEAD] if route.method == hdrs.METH_GET else [])):
            app.router.add_route(method, path, _handler(route))
    return app


def _around(metrics: Metrics) -> Middleware:
    """Give the request an id, its failures an answer, and the log a line without its contents."""
    seldom = Seldom()
    log = _log.bind()  # unbound, a logger is made anew for each line, said or not

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("x-request-id", "")
        good = given and _REQUEST_ID.fullmatch(given)
        request_id = given if good else f"{getrandbits(128):032x}"
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the last place to turn it into an answer
            if request.path == WEBHOOK_PATH:
                metrics.refused(error)
            response = _problem_of(error, seldom).response()
        response.headers["X-Request-Id"] = request_id
        seconds = time.perf_counter() - started
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "no such path"
        metrics.request(route, response.status, seconds)
        if response.status == _UNAVAILABLE:  # the platform goes on asking: a line for many
            seldom.say(_log, "requests are refused", route=route, status=response.status)
        else:
            say = getattr(log, _level(response.status))
            about = {"method": request.method, "route": route, "status": response.status}
            say("request", **about, duration_ms=round(1000 * seconds, 1))
        return response

    return surround


def _problem_of(error: Exception, seldom: Seldom) -> Problem:
    """Say what went wrong; what nobody foresaw goes to the log as well."""
    match error:
        case Problem():
            return error
        case web.HTTPException():
            return _of_http(error)
        case QueueFullError():
            seldom.say(_log, "queue is full")
            return unavailable("too much is waiting; send it again", 1)
        case UnavailableError():
            seldom.say(_log, "database not available", problem=str(error))
            return unavailable("the database is not available; send it again", _RETRY_AFTER_S)
        case PoisonError():
            about = {"position": str(error.position), "reason": error.reason}
            _log.warning("event can't be read", **about)
            return unreadable(**about)
        case _:
            _log.error("request failed", exc_info=error)
            detail = "this is a defect of userlog; its log has a line with this X-Request-Id"
            return Problem(500, "Internal error", detail)


def _of_http(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405, "Method not allowed", f"allowed here: {allow}", headers={hdrs.ALLOW: allow}
        )
    if error.status == HTTPStatus.NOT_FOUND:
        return Problem(404, "No such path", "GET /openapi.json lists the paths that there are")
    return Problem(error.status, error.reason, "this HTTP request can't be answered as it is")


def _level(status: int) -> str:
    return "warning" if status >= 500 else "info" if status >= 400 else "debug"  # noqa: PLR2004


def _authorize(tokens: Tokens, open_paths: frozenset[str]) -> Middleware:
    """Let nobody past who has no token, whatever they ask for."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            access = await tokens.access(given.strip()) if scheme.lower() == "bearer" else None
            if access is None:
                raise Problem(
                    401,
                    "Token missing or wrong",
                    "send the header Authorization: Bearer <token>",
                    headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
                )
            request[_ACCESS] = access
        return await handler(request)

    return check


def _handler(route: Route) -> Handler:
    """Let nobody past whose token does not open this; read the parameters, write the answer."""
    strict = route.scope is not None
    asks = strict or bool(route.parameters)

    async def handle(request: web.Request) -> web.StreamResponse:
        application_id = request.match_info.get("application_id")
        if route.scope and not request[_ACCESS].allows(route.scope, application_id):
            raise Problem(403, "Not allowed", "the token is good, but does not open this")
        query = NOTHING
        if asks:
            query = Params(route.parameters, request.query, request.headers, strict=strict)
        found = await route.call(request, query)
        if isinstance(found, web.StreamResponse):
            return found
        return web.Response(body=_encode(found), content_type="application/json")

    return handle
