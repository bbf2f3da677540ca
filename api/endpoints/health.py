"""Health and metrics, for load balancers and monitoring systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp import hdrs, web

from api.observe.metrics import CONTENT_TYPE
from api.web.single_flight import SingleFlight

if TYPE_CHECKING:
    from api.observe.metrics import Metrics
    from api.web.params import Parameters
    from eventstore.log import EventLog


class Health(msgspec.Struct, frozen=True):
    """All is well; anything else is a problem document."""

    status: Literal["ok"]


class HealthEndpoints:
    """Requests of load balancers and monitoring systems."""

    def __init__(self, log: EventLog, metrics: Metrics) -> None:
        self._log_ready = SingleFlight(log.ready)
        self._metrics = metrics

    async def metrics(self, _request: web.Request, _given: Parameters) -> web.Response:
        """Answer what a monitoring system reads."""
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE}
        return web.Response(body=await self._metrics.read(), headers=headers)

    async def live(self, _request: web.Request, _given: Parameters) -> Health:
        """Say that the process serves."""
        return Health("ok")

    async def close(self) -> None:
        """Break off what is going on."""
        await self._log_ready.close()

    async def ready(self, _request: web.Request, _given: Parameters) -> Health:
        """Say that the database answers too, and has the schema of this version.

        It is asked once for all who want to know.
        """
        await self._log_ready.result()
        return Health("ok")
