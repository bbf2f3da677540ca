"""The route table: every request that is answered, whom it is open to, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from api.endpoints.feed import STREAM, Events
from api.endpoints.handlers import Erased, Health, Stats
from api.endpoints.status import Status
from api.web import params
from api.web.params import Parameter, Params
from api.web.tokens import Scope
from api.webhook.ingest import Receipt
from projections.query.views import History, User, Users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.endpoints.feed import Feed
    from api.endpoints.handlers import Handlers

JSON = "application/json"
WEBHOOK_PATH = "/webhooks/fynd"
_APPLICATION = "/v1/applications/{application_id}"
_USER = f"{_APPLICATION}/users/{{user_id}}"


class Route(msgspec.Struct, frozen=True):
    """A request, and what becomes of it.

    `call` returns an `answer`, which is encoded as JSON, or a response of one of the types in
    `media`. `problems` are the statuses of what can go wrong here and not everywhere.
    Without a `scope` nobody needs a token, and whoever adds to the query is not refused: a load
    balancer may, or the platform.
    """

    method: str
    path: str
    call: Callable[[web.Request, Params], Awaitable[object]]
    answer: type
    scope: Scope | None
    parameters: tuple[Parameter[Any], ...] = ()
    media: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()


def routes(handlers: Handlers, feed: Feed) -> Sequence[Route]:
    """Make the table; the order is that of the documentation."""
    places, moments = feed.places, (params.VALID_AT, params.KNOWN_AT)
    return (
        Route(
            "POST",
            WEBHOOK_PATH,
            handlers.webhook,
            Receipt,
            None,
            problems=(400, 401, 408, 413, 503),
        ),
        Route(
            "GET",
            _USER,
            handlers.user,
            User,
            Scope.READ,
            (*moments, handlers.min_position),
            problems=(410,),
        ),
        Route(
            "GET",
            f"{_USER}/history",
            handlers.history,
            History,
            Scope.READ,
            (*moments, params.ORDER, handlers.limit, params.HISTORY_AFTER, handlers.min_position),
            problems=(410,),
        ),
        Route(
            "GET",
            f"{_APPLICATION}/users",
            handlers.users,
            Users,
            Scope.READ,
            (
                *(params.EMAIL, params.PHONE, params.USERNAME, params.LIFECYCLE),
                *(params.UPDATED_SINCE, handlers.limit, params.SEARCH_AFTER),
            ),
        ),
        Route(
            "GET",
            f"{_APPLICATION}/stats",
            handlers.stats,
            Stats,
            Scope.READ,
            (params.FROM, params.TO),
        ),
        Route("DELETE", f"{_USER}/personal-data", handlers.erase, Erased, Scope.ERASE),
        Route(
            "GET",
            "/v1/events",
            feed.events,
            Events,
            Scope.READ,
            (places.after, places.partition, feed.limit, params.WAIT_S, places.resumed),
            media=(STREAM,),
        ),
        Route("GET", "/v1/status", handlers.status, Status, Scope.READ),
        Route("GET", "/metrics", handlers.metrics, str, Scope.READ, media=("text/plain",)),
        Route("GET", "/health/live", handlers.live, Health, None),
        Route("GET", "/health/ready", handlers.ready, Health, None, problems=(503,)),
    )
