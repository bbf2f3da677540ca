"""The pool of worker processes: starts them, gives each its job, takes their reports."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import LogError
from projections.rebuild.worker import Assignment, Failed, Job, Report, run_job
from projections.subprocesses import WorkerError, command, how_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore.log import EventLog
    from projections.rebuild.log_source import LogSource

_LINE_BYTES_MAX = 1 << 24


async def run_all(
    jobs: Sequence[Job], source: LogSource, log: EventLog, take: Callable[[Report], None]
) -> None:
    """Do a single job in this process, several in one process each, all at the same time.

    WorkerError as soon as one of them fails; the others are ended.
    """
    if len(jobs) == 1:
        await run_job(jobs[0], log, take)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_run(Assignment(source, job), take))
    except* LogError as errors:
        raise errors.exceptions[0] from None


async def _run(assignment: Assignment, take: Callable[[Report], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("projections.rebuild.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        start_new_session=True,  # Ctrl-C is for the parent
    )
    assert process.stdin  # noqa: S101 - a pipe was asked for
    assert process.stdout  # noqa: S101 - likewise
    try:
        with contextlib.suppress(RuntimeError):  # it has ended already; how, is said below
            process.stdin.write(msgspec.json.encode(assignment) + b"\n")
        async for line in process.stdout:
            report: Report = msgspec.json.decode(line, type=Report)
            if isinstance(report, Failed):
                raise WorkerError(report.problem)
            take(report)
        if code := await process.wait():
            raise WorkerError(f"worker process {process.pid} {how_ended(code)}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
