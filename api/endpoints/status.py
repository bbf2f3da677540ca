"""How far the log and the read models have come, for people and programs that ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from projections.project import parked
from projections.prove.scrubber import Scrubbed
from projections.query.views import Lag, Place, Time, rfc3339
from projections.rebuild import progress
from projections.rebuild.progress import Progress

if TYPE_CHECKING:
    from api.runtime import Runtime


class Head(msgspec.Struct, frozen=True):
    """The newest event of a partition, and the hash that chains it to all before it."""

    position: Place
    chain: str
    recorded_at: Time | None


class Status(msgspec.Struct, frozen=True):
    """How far the log and the read models have come, and what waits for a person.

    `rebuild` is the one that is not finished, `scrub` what this process has proven, if it does.
    """

    heads: list[Head]
    projections: list[Lag]
    set_aside: int
    rebuild: Progress | None
    scrub: Scrubbed | None
    quarantined: int


async def status(runtime: Runtime) -> Status:
    """Gather it."""
    return Status(
        heads=[
            Head(
                str(head.position),
                head.chain.hex(),
                rfc3339(head.recorded_at) if head.position.number else None,
            )
            for head in await runtime.log.heads()
        ],
        projections=await runtime.read_model.lags(),
        set_aside=await parked.count(runtime.log.pool),
        rebuild=await progress.read(runtime.log.pool),
        scrub=runtime.scrubber.scrubbed,
        quarantined=await runtime.quarantine.count(),
    )
