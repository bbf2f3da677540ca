"""Status: how far the log and the read models have come, and what needs attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from projections.project import parked
from projections.prove.scrubber import Scrubbed
from projections.query.formats import PositionText, Time, rfc3339
from projections.query.lag import Lag, lags
from projections.rebuild import progress
from projections.rebuild.progress import Progress

if TYPE_CHECKING:
    from aiohttp import web

    from api.web.params import Parameters
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from eventstore.quarantine import Quarantine
    from projections.prove.scrubber import Scrubber


class LogHead(msgspec.Struct, frozen=True):
    """The newest event of a partition, and the hash that chains it to all before it."""

    position: PositionText
    chain: str
    recorded_at: Time | None


class Status(msgspec.Struct, frozen=True):
    """How far the log and the read models have come, and what waits for a person.

    `rebuild` is the one that is not finished, `scrub` what this process has proven, if it does.
    """

    heads: list[LogHead]
    projections: list[Lag]
    parked: int
    rebuild: Progress | None
    scrub: Scrubbed | None
    quarantined: int


class StatusSource(NamedTuple):
    """What the status is read from; `scrubber` is the one of this process, if it has one."""

    log: EventLog
    pool: Pool
    quarantine: Quarantine
    scrubber: Scrubber | None = None


async def read_status(source: StatusSource) -> Status:
    """Read the status."""
    return Status(
        heads=[
            LogHead(
                str(head.position),
                head.chain.hex(),
                rfc3339(head.recorded_at) if head.position.number else None,
            )
            for head in await source.log.heads()
        ],
        projections=await lags(source.pool),
        parked=await parked.count(source.pool),
        rebuild=await progress.read(source.pool),
        scrub=source.scrubber.scrubbed if source.scrubber else None,
        quarantined=await source.quarantine.count(),
    )


class StatusEndpoints:
    """Requests for the status."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    async def status(self, _request: web.Request, _given: Parameters) -> Status:
        """Answer how far the log and the read models have come."""
        return await read_status(self._source)
