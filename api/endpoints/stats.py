"""Stats: an application's numbers by day."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from api.web import times
from api.web.params import DAY, Parameters
from api.web.problems import bad_parameter
from projections.query import stats
from projections.query.stats import Day

if TYPE_CHECKING:
    from aiohttp import web

    from eventstore.postgres.pool import Pool


class StatsParameters(Parameters, frozen=True):
    """The days to show."""

    first: Annotated[
        date | None,
        DAY,
        Meta(
            description="first day; if not given, 29 days before the last",
            examples=["2023-06-01"],
        ),
    ] = msgspec.field(default=None, name="from")
    last: Annotated[
        date | None,
        DAY,
        Meta(
            description="last day, inclusive; if not given, today in UTC", examples=["2023-06-30"]
        ),
    ] = msgspec.field(default=None, name="to")


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

    async def stats(self, request: web.Request, given: StatsParameters) -> Stats:
        """Answer an application's numbers, day by day."""
        application_id = request.match_info["application_id"]
        last = given.last or times.today()
        try:
            first = times.first_day(given.first, last, self._days_max)
        except ValueError as error:
            raise bad_parameter("from", str(error)) from None
        days = await stats.days_of(self._pool, self._partitions, application_id, first, last)
        return Stats(application_id, days)
