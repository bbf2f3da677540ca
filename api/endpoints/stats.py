"""Stats: an application's numbers by day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from api.web import params, rules
from api.web.problems import bad_parameter
from projections.query import stats
from projections.query.stats import Day

if TYPE_CHECKING:
    from aiohttp import web

    from api.web.params import Params
    from eventstore.postgres.pool import Pool


class Stats(msgspec.Struct, frozen=True):
    """An application's numbers by day; no days if nothing is known of it by the last."""

    application_id: str
    days: list[Day]


class StatsEndpoints:
    """Requests for numbers."""

    def __init__(self, pool: Pool, partitions: int, days_max: int) -> None:
        """`partitions` is that of the log."""
        self._pool = pool
        self._partitions = partitions
        self._days_max = days_max

    async def stats(self, request: web.Request, query: Params) -> Stats:
        """Answer an application's numbers, day by day."""
        application_id = request.match_info["application_id"]
        last = query[params.TO] or rules.today()
        try:
            first = rules.first_day(query[params.FROM], last, self._days_max)
        except ValueError as error:
            raise bad_parameter(params.FROM.name, str(error)) from None
        days = await stats.days_of(self._pool, self._partitions, application_id, first, last)
        return Stats(application_id, days)
