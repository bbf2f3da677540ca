"""What a rebuild does, and what it does to others: speed, memory, appends and reads meanwhile.

    python benchmarks/rebuild_beside.py --events 200000 --users 40000 --workers 2

On an embedded PostgreSQL of its own. The first rebuild, alone, makes what nobody has projected yet,
and proves it by the log; the second one goes on beside readers, an appender and the projector, and
is compared with the generation that answers. Beside the rebuild's speed stands that of a binary
COPY of the same events out of the same database, in the same run: what reading alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
from data import APPLICATION, START_MS, STEP_MS, Shape, delivery, events_of, fill, user_id

from eventstore.log import EventLog
from eventstore.postgres import embedded, schema
from eventstore.postgres.pool import open_pool
from projections.project.projector import Projector
from projections.query.users import Page, ReadModel
from projections.rebuild import progress
from projections.rebuild.log_source import LogSource
from projections.rebuild.rebuild import Plan, Rebuilt, prove_all, rebuild

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from eventstore.postgres.pool import Pool

KEY = bytes(32)
APPENDS_AT_ONCE = 20


@contextlib.asynccontextmanager
async def new_log(partitions: int) -> AsyncGenerator[tuple[LogSource, EventLog, Pool]]:
    """Open a userlog in a temporary directory, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="userlog-bench-") as folder:
        async with embedded.running(Path(folder), notice=lambda _: None) as url:
            connection = await asyncpg.connect(url)
            await schema.install(connection, partitions)
            service_url = await embedded.service_url(connection, url)
            await connection.close()
            source = LogSource(url, KEY, None, 60)
            pool = await open_pool(service_url, size=8, timeout_s=60)
            log = await EventLog.open(pool, source.master())
            yield source, log, pool
            await log.close()
            await pool.close()


class Load:
    """Readers and an appender, and what they saw."""

    def __init__(self, log: EventLog, pool: Pool, shape: Shape) -> None:
        """The appender goes on where the filling ended."""
        self._log = log
        self._read_model = ReadModel(log, pool)
        self._shape = shape
        self._newest: dict[str, int] = {}
        self._at_ms = START_MS + 2 * shape.events * STEP_MS
        self.counts = {"appended": 0, "reads": 0, "reads_failed": 0, "reads_back": 0, "mixed": 0}

    async def append(self) -> None:
        """Append deliveries, one batch after the other, until cancelled."""
        chance = random.Random(2)
        while True:
            events = []
            for _ in range(APPENDS_AT_ONCE):
                self._at_ms += STEP_MS
                number = chance.randrange(self._shape.users)
                events += events_of(delivery(number, 10_000, self._at_ms, chance.random() * 0.9))
            await self._log.append(events)
            self.counts["appended"] += len(events)

    async def read(self) -> None:
        """Look at random users, until cancelled."""
        chance = random.Random(3)
        while True:
            ours = user_id(chance.randrange(self._shape.users))
            stream = self._log.stream(APPLICATION, ours)
            user = await self._read_model.user(stream)
            history = await self._read_model.history(stream, page=Page("desc", 20))
            self.counts["reads"] += 1
            if user is None or not history.entries:
                self.counts["reads_failed"] += 1
                continue
            positions = [int(e.position.partition(":")[2]) for e in history.entries]
            seen, at = max(positions), int(user.as_of.position.partition(":")[2])
            self.counts["reads_back"] += at < self._newest.get(ours, 0)
            self.counts["mixed"] += at > seen  # history is asked later, so it can't know less
            self._newest[ours] = max(at, self._newest.get(ours, 0))


@contextlib.asynccontextmanager
async def beside(*work: Awaitable[None]) -> AsyncGenerator[None]:
    """Do something else meanwhile; if that fails, so does everything."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def timed(work: Awaitable[Any]) -> tuple[Any, float]:
    """Return what some work returns, and how many seconds it took."""
    began = time.perf_counter()
    return await work, time.perf_counter() - began


async def watch(pool: Pool, phases: dict[str, float], peaks: dict[int, int]) -> None:
    """Note how long each phase takes, and the most memory that each worker has had."""
    said, began = "", time.perf_counter()
    while True:
        now = time.perf_counter()
        found = await progress.read(pool)
        if said:
            phases[said] = phases.get(said, 0) + now - began
        said, began = found.phase if found else "", now
        for pid, peak in _peaks():
            peaks[pid] = max(peak, peaks.get(pid, 0))
        await asyncio.sleep(0.1)


def _peaks() -> list[tuple[int, int]]:
    """Return the peak resident memory, in kB, of each worker process."""
    found: list[tuple[int, int]] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, IndexError):
            if b"projections.rebuild.worker" in status.with_name("cmdline").read_bytes():
                peak = status.read_text().split("VmHWM:")[1].split()[0]
                found.append((int(status.parent.name), int(peak)))
    return found


async def copy_out(url: str) -> None:
    """Read the whole log as PostgreSQL can at its fastest."""
    connection = await asyncpg.connect(url)
    await connection.copy_from_table(
        "events", schema_name="userlog", format="binary", output=_nowhere
    )
    await connection.close()


async def _nowhere(_data: bytes) -> None:
    return


async def measure(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill, rebuild alone, rebuild while others read and append, and prove."""
    shape = Shape(args.events, args.users)
    plan = Plan(args.workers)
    async with new_log(args.partitions) as (source, log, pool):
        _, filling_s = await timed(fill(log, shape))
        say(f"filled with {shape.events} events of {shape.users} users in {filling_s:.1f} s")
        _, copy_s = await timed(copy_out(source.url))
        quiet: dict[str, float] = {}
        peaks: dict[int, int] = {}
        async with beside(watch(pool, quiet, peaks)):
            built, alone_s = await timed(rebuild(source, plan))
        say(f"rebuilt alone in {alone_s:.1f} s")
        proof, proof_s = await timed(prove_all(source, plan, lambda *_: None))
        say(f"proven in {proof_s:.1f} s")
        under = await _under_load(source, (log, pool), shape, plan)
        return {
            "events": shape.events,
            "users": shape.users,
            "workers": args.workers,
            "partitions": args.partitions,
            "copy_events_per_s": round(shape.events / copy_s),
            "alone": _speeds(built, alone_s, quiet, shape.events),
            "times_copy": round(alone_s / copy_s, 1),
            "verify_only_events_per_s": round(shape.events / proof_s),
            "differences": built.proof.differing + proof.differing,
            "worker_peak_mb": sorted(peak // 1024 for peak in peaks.values()),
            "under_load": under,
        }


def _speeds(built: Rebuilt, took_s: float, phases: dict[str, float], events: int) -> dict[str, Any]:
    return {
        "build_events_per_s": round(events / phases.get("building", took_s)),
        "all_events_per_s": round(events / took_s),
        "seconds": round(took_s, 1),
        "phases_s": {name: round(s, 1) for name, s in phases.items()},
        "users": built.users,
    }


async def _under_load(
    source: LogSource, opened: tuple[EventLog, Pool], shape: Shape, plan: Plan
) -> dict[str, Any]:
    log, pool = opened
    load = Load(log, pool, shape)
    projector = Projector(log, batch_max=500, poll_s=0.1)
    log.observers.append(lambda _events, _seconds: projector.wake())
    projector.start()
    phases: dict[str, float] = {}
    async with beside(load.append(), load.read()):
        await asyncio.sleep(5)
        before = dict(load.counts)
        async with beside(watch(pool, phases, {})):
            built, took_s = await timed(rebuild(source, plan))
        after = dict(load.counts)
    await projector.stop()
    return {
        **_speeds(built, took_s, phases, shape.events + before["appended"]),
        "differences": built.proof.differing,
        "appends_per_s_without": round(before["appended"] / 5),
        "appends_per_s_with": round((after["appended"] - before["appended"]) / took_s),
        "reads_per_s_without": round(before["reads"] / 5),
        "reads_per_s_with": round((after["reads"] - before["reads"]) / took_s),
        **{name: after[name] for name in ("reads", "reads_failed", "reads_back", "mixed")},
    }


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    found = asyncio.run(measure(args, say))
    print(msgspec.json.format(msgspec.json.encode(found), indent=0 if args.json else 2).decode())


if __name__ == "__main__":
    main()
