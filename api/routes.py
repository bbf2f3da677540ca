"""The route table: every request, the scope that it needs, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.endpoints.cloud_events import Events
from api.endpoints.feed import STREAM, FeedParameters
from api.endpoints.health import Health
from api.endpoints.signed_heads import SignedHeads
from api.endpoints.stats import Stats, StatsParameters
from api.endpoints.status import Status
from api.endpoints.users import (
    Erased,
    EraseParameters,
    HistoryParameters,
    ListParameters,
    UserParameters,
)
from api.web.route import Delivery, Route
from api.web.tokens import Scope
from api.webhook import samples
from api.webhook.ingest import Receipt
from api.webhook.verify import HEADER
from projections.query.views import History, User, Users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.endpoints.feed import Feed
    from api.endpoints.health import HealthEndpoints
    from api.endpoints.signed_heads import SignedHeadEndpoints
    from api.endpoints.stats import StatsEndpoints
    from api.endpoints.status import StatusEndpoints
    from api.endpoints.users import UserEndpoints
    from api.webhook.handler import Webhook

WEBHOOK_PATH = "/webhooks/fynd"
_APPLICATION = "/v1/applications/{application_id}"
_USER = f"{_APPLICATION}/users/{{user_id}}"
_DELIVERY = """\
What the platform sends. Whatever was signed is answered with 200: other events are ignored, what
can't be read is kept in quarantine.
"""


def routes(  # noqa: PLR0913, PLR0917 - one for each group of endpoints
    webhook: Webhook,
    users: UserEndpoints,
    stats: StatsEndpoints,
    feed: Feed,
    status: StatusEndpoints,
    signed: SignedHeadEndpoints,
    health: HealthEndpoints,
) -> Sequence[Route[Any]]:
    """Make the table; the order is that of the documentation."""
    examples = {name: msgspec.json.decode(body) for name, body in samples.load().items()}
    return (
        Route(
            "POST",
            WEBHOOK_PATH,
            webhook.webhook,
            Receipt,
            None,
            problems=(400, 401, 408, 413, 415, 503),
            delivery=Delivery(_DELIVERY, examples, HEADER),
        ),
        Route(
            "GET",
            _USER,
            users.user,
            User,
            Scope.READ,
            UserParameters,
            problems=(410, 429),
        ),
        Route(
            "GET",
            f"{_USER}/history",
            users.history,
            History,
            Scope.READ,
            HistoryParameters,
            problems=(410, 429),
        ),
        Route(
            "GET",
            f"{_APPLICATION}/users",
            users.users,
            Users,
            Scope.READ,
            ListParameters,
        ),
        Route(
            "POST",
            f"{_APPLICATION}/users",
            users.search,
            Users,
            Scope.READ,
            ListParameters,
            problems=(408, 413),
            posted=True,
        ),
        Route(
            "GET",
            f"{_APPLICATION}/stats",
            stats.stats,
            Stats,
            Scope.READ,
            StatsParameters,
        ),
        Route(
            "DELETE", f"{_USER}/personal-data", users.erase, Erased, Scope.ERASE, EraseParameters
        ),
        Route(
            "GET",
            "/v1/events",
            feed.events,
            Events,
            Scope.READ,
            FeedParameters,
            media=(STREAM,),
            problems=(409, 429),
        ),
        Route("GET", "/v1/status", status.status, Status, Scope.READ),
        Route("GET", "/v1/signed-heads", signed.signed_heads, SignedHeads, Scope.READ),
        Route(
            "GET",
            "/metrics",
            health.metrics,
            str,
            Scope.READ,
            media=("text/plain",),
            without_database=True,
        ),
        Route("GET", "/health/live", health.live, Health, None),
        Route("GET", "/health/ready", health.ready, Health, None, problems=(503,)),
    )
