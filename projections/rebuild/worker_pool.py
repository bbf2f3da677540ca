"""Worker processes, as whoever gives them work sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import LogError
from projections.rebuild.worker import Failed, Job, Task, Word, do

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore.log import EventLog
    from projections.rebuild.log_source import Source

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]);from {module} import main; main()"
_LINE_BYTES_MAX = 1 << 24


class WorkerError(LogError):
    """A worker could not do its job; what others have done is kept."""


def program(module: str) -> tuple[str, ...]:
    """Return what starts a module's `main` in another process, in which imports find the same."""
    return (sys.executable, "-P", "-c", _START.format(module=module), json.dumps(sys.path))


async def run_all(
    jobs: Sequence[Job], source: Source, log: EventLog, say: Callable[[Word], None]
) -> None:
    """Do a single job in this process, several in one process each, all at the same time.

    WorkerError as soon as one of them fails; the others are ended.
    """
    if len(jobs) == 1:
        await do(jobs[0], log, say)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_run(Task(source, job), say))
    except* LogError as errors:
        raise errors.exceptions[0] from None


async def _run(task: Task, say: Callable[[Word], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *program("projections.rebuild.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        start_new_session=True,  # Ctrl-C is for the parent
    )
    assert process.stdin  # noqa: S101 - a pipe was asked for
    assert process.stdout  # noqa: S101 - likewise
    try:
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        async for line in process.stdout:
            word: Word = msgspec.json.decode(line, type=Word)
            if isinstance(word, Failed):
                raise WorkerError(word.problem)
            say(word)
        if code := await process.wait():
            raise WorkerError(f"worker process {process.pid} {how_ended(code)}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()


def how_ended(code: int) -> str:
    """Put a process's return code in words."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
