"""The HTTP application: the routes, what surrounds them, and what has to be ended with them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from api.endpoints.feed import Feed
from api.endpoints.health import HealthEndpoints
from api.endpoints.signed_heads import SignedHeadEndpoints
from api.endpoints.stats import StatsEndpoints
from api.endpoints.status import StatusEndpoints, StatusSource
from api.endpoints.users import UserEndpoints
from api.observe.metrics import Metrics
from api.routes import routes
from api.web import openapi
from api.web.budgets import Budgets
from api.web.lasting import Lasting
from api.web.middlewares import Middlewares
from api.web.params import Bounds
from api.web.tokens import Tokens
from api.webhook.arriving import Arriving
from api.webhook.handler import Webhook
from eventstore.errors import LogError

if TYPE_CHECKING:
    from api.config.secret_files import Secrets
    from api.observe.tracing import Tracing
    from api.runtime import Runtime
    from projections.prove.scrubber import Scrubber


class App:
    """The application upon an open runtime; secrets that are renewed count at once."""

    def __init__(
        self,
        runtime: Runtime,
        secrets: Secrets,
        scrubber: Scrubber | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`scrubber` is the one of this process, if it has one."""
        settings, log, pool = runtime.settings, runtime.log, runtime.pool
        self._metrics = Metrics(log, pool, settings)
        self._health = HealthEndpoints(log, self._metrics)
        self._tokens = Tokens(pool, runtime.master_key, secrets)
        budgets = Budgets.of(settings)
        lasting = Lasting(self._tokens, budgets)
        self.feed = Feed(log, lasting, settings.page_bytes_max)
        arriving = Arriving(settings.arriving_max, settings.arriving_bytes_max)
        timeout_s = settings.request_timeout_s
        middlewares = Middlewares(self._metrics, self._tokens, budgets, timeout_s, log.ready)
        self.drain = middlewares.drain
        table = routes(
            Webhook(runtime.ingest, secrets, self._metrics, arriving, budgets.deliveries),
            UserEndpoints(log, pool, runtime.read_model, runtime.quarantine, settings, lasting),
            StatsEndpoints(pool, log.partitions, settings.page_rows_max),
            self.feed,
            StatusEndpoints(StatusSource(log, pool, runtime.quarantine, scrubber)),
            SignedHeadEndpoints(log),
            self._health,
        )
        self.application = web.Application(
            middlewares=[*([tracing.middleware()] if tracing else []), middlewares.middleware],
            client_max_size=settings.body_bytes_max,
        )
        bounds = Bounds(log.partitions, settings.page_rows_max)
        middlewares.add(self.application.router, openapi.described(table, bounds), bounds)

    async def close(self) -> None:
        """End what asks the database in the background, and note which tokens were used."""
        await self.feed.close()
        await self._health.close()
        await self._metrics.close()
        with contextlib.suppress(LogError):
            await self._tokens.close()
