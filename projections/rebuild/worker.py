"""A worker process: opens the log for itself, does its job, and ends when its parent does.

It is told its job in one line on standard input and answers in lines on standard output.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import uvloop

from eventstore.errors import LogError
from projections.fold.poison import PoisonError
from projections.prove.differences import Differences
from projections.prove.proof import prove
from projections.prove.ranges import Range
from projections.rebuild.log_source import Source, opened
from projections.rebuild.shards import load_open

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.log import EventLog

_NICENESS = 10
"""The service on the same machine goes first."""
_GARBAGE = 50_000
"""Objects made between two looks for cycles, of which folding makes none."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load open shards of a generation, beginning with one partition."""

    generation: int
    begin: int


class Prove(msgspec.Struct, frozen=True, tag=True):
    """Compare these users with what the log says, in a generation or the one that answers."""

    ranges: list[Range]
    generation: int | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a worker gave up, in a sentence that quotes nothing of the content."""

    problem: str


class Proved(msgspec.Struct, frozen=True, tag=True):
    """What a range's comparison found."""

    found: Differences


Job: TypeAlias = Load | Prove
Word: TypeAlias = Proved | Failed


class Task(msgspec.Struct, frozen=True):
    """All that a worker is told."""

    source: Source
    job: Load | Prove


async def do(job: Job, log: EventLog, say: Callable[[Word], None]) -> None:
    """Do a job, in whatever process."""
    match job:
        case Load():
            await load_open(log, job.generation, job.begin)
        case Prove():
            for users in job.ranges:
                say(Proved(await prove(log, users, job.generation)))


async def _work(task: Task) -> None:
    async with opened(task.source) as log:
        await do(task.job, log, _say)


def _say(word: Word) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Do the job of a worker process."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    os.nice(_NICENESS)
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        uvloop.run(_work(task))
    except (LogError, PoisonError) as error:
        _say(Failed(str(error)))
    except Exception as error:  # noqa: BLE001 - its message may quote data
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else "?"
        _say(Failed(f"{type(error).__name__} in {place}"))
