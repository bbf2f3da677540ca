"""What the benchmarks share: a userlog of their own, rounds in turn, and how results are shown."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import msgspec

from api.ingest import Ingest
from eventstore import database, embedded
from eventstore.log import EventLog
from eventstore.quarantine import Quarantine
from eventstore.sealing import MasterKey
from projections.read_model import ReadModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_POOL_SIZE = 8


class Userlog(NamedTuple):
    """A userlog on a new embedded PostgreSQL, durable as ever."""

    url: str
    log: EventLog
    ingest: Ingest
    read_model: ReadModel


@contextlib.asynccontextmanager
async def userlog(partitions: int = 1) -> AsyncIterator[Userlog]:
    """Open a userlog in a temporary directory, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="userlog-bench-") as folder:
        async with embedded.running(Path(folder), notice=lambda _: None) as url:
            connection = await asyncpg.connect(url)
            await database.install(connection, partitions)
            await connection.close()
            pool = await database.open_pool(url, size=_POOL_SIZE, timeout_s=60)
            key = MasterKey(bytes(32))
            log = await EventLog.open(pool, key)
            ingest = Ingest(log, Quarantine(pool, partitions, key))
            yield Userlog(url, log, ingest, ReadModel(log))
            await log.close()
            await pool.close()


async def in_turn(
    subjects: Mapping[str, Callable[[], Awaitable[Any]]], rounds: int, calls: int
) -> dict[str, float]:
    """Call each subject in turn, round after round; return the median time of a call in ms.

    The machine is shared: what is measured side by side is disturbed alike.
    """
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, call in subjects.items():
            for _ in range(calls):
                began = time.perf_counter()
                await call()
                found[name].append(1000 * (time.perf_counter() - began))
    return {name: median(times) for name, times in found.items()}


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    packages = {name: metadata.version(name) for name in ("userlog", "asyncpg", "msgspec")}
    return {"cpus": os.cpu_count(), "python": platform.python_version(), **packages}


def show(result: Mapping[str, Any], lines: list[str], *, json: bool) -> None:
    """Print a result, for people or for machines."""
    if json:
        print(msgspec.json.encode({**result, "machine": machine()}).decode())
    else:
        print("\n".join([*lines, ", ".join(f"{k} {v}" for k, v in machine().items())]))
