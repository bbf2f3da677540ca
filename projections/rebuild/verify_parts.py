"""Verifying the log in several processes, as `eventstore.verify.whole` cuts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.rebuild.worker import Counted, Report, Verified, Verify
from projections.rebuild.worker_pool import run_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventstore.log import EventLog
    from eventstore.verify.finding import Finding
    from eventstore.verify.whole import Part
    from projections.rebuild.log_source import LogSource

    Run = Callable[[Sequence[Part], Callable[[int], None]], Awaitable[list[Finding]]]

# Parts of a partition for each process, so that none waits long for the last.
PARTS_EACH = 4


def in_processes(log: EventLog, source: LogSource, processes: int) -> Run:
    """Return what verifies parts in so many processes; WorkerError if one fails."""

    async def run(parts: Sequence[Part], counted: Callable[[int], None]) -> list[Finding]:
        found: list[Finding] = []

        def take(report: Report) -> None:
            if isinstance(report, Counted):
                counted(report.count)
            elif isinstance(report, Verified):
                found.append(report.found)

        jobs = [Verify(list(parts[n::processes])) for n in range(processes)]
        await run_all([job for job in jobs if job.parts], source, log, take)
        return found

    return run
