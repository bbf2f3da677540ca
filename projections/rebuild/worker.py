"""A worker process: opens the log for itself, does its job, and ends when its parent does.

It reads its job from one line of standard input and writes its reports to standard output.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import uvloop

from eventstore.errors import explained
from eventstore.verify.finding import Finding
from eventstore.verify.whole import Part, verify_part
from projections.fold.poison import PoisonError
from projections.prove.differences import Differences
from projections.prove.proof import prove
from projections.prove.ranges import Range
from projections.rebuild.log_source import LogSource, opened
from projections.rebuild.shards import load_open
from projections.subprocesses import GARBAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.log import EventLog

# The service on the same machine goes first.
_NICENESS = 10


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load open shards of a generation, beginning with one partition; `parking` as in the plan."""

    generation: int
    begin: int
    parking: bool = False


class Prove(msgspec.Struct, frozen=True, tag=True):
    """Compare these users with the log, in a generation or the active one."""

    ranges: list[Range]
    generation: int | None = None


class Verify(msgspec.Struct, frozen=True, tag=True):
    """Verify parts of the log."""

    parts: list[Part]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a worker gave up, in a sentence that quotes nothing of the content."""

    problem: str


class Proved(msgspec.Struct, frozen=True, tag=True):
    """What a range's comparison found."""

    found: Differences


class Counted(msgspec.Struct, frozen=True, tag=True):
    """How much more of a part is verified."""

    count: int


class Verified(msgspec.Struct, frozen=True, tag=True):
    """What was found in a part of the log."""

    found: Finding


Job: TypeAlias = Load | Prove | Verify
Report: TypeAlias = Proved | Counted | Verified | Failed


class Assignment(msgspec.Struct, frozen=True):
    """What a worker reads when it starts."""

    source: LogSource
    job: Load | Prove | Verify


async def run_job(job: Job, log: EventLog, report: Callable[[Report], None]) -> None:
    """Do a job, in whatever process."""
    match job:
        case Load():
            await load_open(log, job.generation, job.begin, parking=job.parking)
        case Prove():
            for users in job.ranges:
                report(Proved(await prove(log, users, job.generation)))
        case Verify():
            for part in job.parts:
                found = await verify_part(log, part, lambda count: report(Counted(count)))
                if found:
                    report(Verified(found))


async def _work(assignment: Assignment) -> None:
    async with opened(assignment.source) as log:
        await run_job(assignment.job, log, _report)


def _report(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Do the job of a worker process."""
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    os.nice(_NICENESS)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        uvloop.run(_work(assignment))
    except Exception as error:  # noqa: BLE001 - its message may quote data
        _report(Failed(_problem(error)))


def _problem(error: Exception) -> str:
    if isinstance(error, PoisonError):
        return str(error)
    if expected := explained(error):
        return str(expected)
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "?"
    return f"{type(error).__name__} in {place}"
