"""What the benchmarks share: a server and a userlog of their own, rounds in turn, aims, output."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import asyncpg
import msgspec
import uvloop

from api.webhook.ingest import Ingest
from eventstore.log import EventLog
from eventstore.postgres import embedded, embedded_server, schema
from eventstore.postgres.pool import open_pool
from eventstore.quarantine import Quarantine
from eventstore.sealing.keys import MasterKey
from projections.query.users import ReadModel

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Mapping,
    )

    from eventstore.postgres.pool import Pool

MASTER_KEY = bytes(range(32))
TCP_PORT = 5432
_POOL_SIZE = 8
_PACKAGES = ("userlog", "asyncpg", "aiohttp", "uvloop", "msgspec", "eventsourcing", "psycopg")
_T = TypeVar("_T")


class Server(NamedTuple):
    """An embedded PostgreSQL, durable as ever: `url` by its socket, `tcp_host` by TCP."""

    url: str
    tcp_host: str


class Userlog(NamedTuple):
    """A userlog in the server's database."""

    url: str
    pool: Pool
    log: EventLog
    ingest: Ingest
    read_model: ReadModel


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """Run PostgreSQL in a temporary directory, which is gone afterwards.

    With the settings of the service, but that it listens on an address of the loopback network
    too, one that no other PostgreSQL of this machine uses.
    """
    high, low = divmod(os.getpid() & 0xFFFF, 256)
    host = f"127.77.{high}.{low}"
    kept = [one for one in embedded_server.SETTINGS if not one.startswith("listen_")]
    embedded_server.SETTINGS = (*kept, f"listen_addresses={host}")
    with tempfile.TemporaryDirectory(prefix="userlog-bench-") as folder:
        async with embedded.running(Path(folder), notice=lambda _: None) as url:
            yield Server(url, host)


@contextlib.asynccontextmanager
async def userlog_in(url: str, partitions: int = 1) -> AsyncGenerator[Userlog]:
    """Install userlog in a database, and open it."""
    connection = await asyncpg.connect(url)
    await schema.install(connection, partitions)
    service_url = await embedded.service_url(connection, url)
    await connection.close()
    pool = await open_pool(service_url, size=_POOL_SIZE, timeout_s=60)
    key = MasterKey(MASTER_KEY)
    log = await EventLog.open(pool, key)
    ingest = Ingest(log, Quarantine(pool, partitions, log.own_keys))
    try:
        yield Userlog(url, pool, log, ingest, ReadModel(log, pool))
        await log.close()
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def userlog(partitions: int = 1) -> AsyncIterator[Userlog]:
    """Run a server, and open a userlog there."""
    async with server() as running, userlog_in(running.url, partitions) as opened:
        yield opened


async def open_plain_pool(url: str, size: int) -> Pool:
    """Open a pool as a rival would at its best: no statement but its own."""
    return await asyncpg.create_pool(url, min_size=size, max_size=size, reset=_keep)


async def _keep(_connection: object) -> None:
    """Spare a statement the second round trip that a pool's default adds."""


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


async def alternate(
    subjects: Mapping[str, Callable[[], Awaitable[_T]]], rounds: int
) -> dict[str, list[_T]]:
    """Run each subject in turn, round after round; return what each round of it returned.

    Every other round goes backwards, so that nobody is always the one after somebody.
    """
    found: dict[str, list[_T]] = {name: [] for name in subjects}
    for n in range(rounds):
        names = list(subjects)
        for name in reversed(names) if n % 2 else names:
            found[name].append(await subjects[name]())
    return found


class Round(msgspec.Struct, frozen=True):
    """How many calls a second there were, and how long one took."""

    rate: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float], took_s: float) -> Round:
        """Sum up the calls of a round."""
        cuts = quantiles(seconds, n=100) if len(seconds) > 1 else [*seconds, *[0.0] * 99][:99]
        return cls(len(seconds) / took_s, 1000 * cuts[49], 1000 * cuts[98])


def middle(rounds: list[Round]) -> Round:
    """Return the median of each number."""
    return Round(
        median(one.rate for one in rounds),
        median(one.p50_ms for one in rounds),
        median(one.p99_ms for one in rounds),
    )


async def closed_loop(call: Callable[[], Awaitable[Any]], callers: int, seconds: float) -> Round:
    """Let callers call one after the other, each when it has its answer.

    A call that raises StopAsyncIteration has nothing left to send: its caller ends.
    """
    took: list[float] = []
    began = time.perf_counter()

    async def one() -> None:
        with contextlib.suppress(StopAsyncIteration):
            while (started := time.perf_counter()) < began + seconds:
                await call()
                took.append(time.perf_counter() - started)

    await asyncio.gather(*(one() for _ in range(callers)))
    return Round.of(took, time.perf_counter() - began)


async def copy_rounds(
    url: str, table: str, names: list[str], batches: Iterable[list[list[Any]]], seconds: float
) -> Round:
    """Copy batches of rows, each a transaction, one after the other on one connection.

    The rate is that of rows, the times are those of batches, which are all of one size.
    """
    connection = await asyncpg.connect(url)
    waiting = list(batches)
    rows = len(waiting[0])

    async def one() -> None:
        if not waiting:
            raise StopAsyncIteration
        await connection.copy_records_to_table(table, records=waiting.pop(), columns=names)

    found = await closed_loop(one, 1, seconds)
    await connection.close()
    return Round(found.rate * rows, found.p50_ms, found.p99_ms)


class Aim(msgspec.Struct, frozen=True):
    """What we have set out to reach, beside what was measured: `ours` and `other` in one unit."""

    what: str
    ours: float
    other: float
    aim: float
    at_most: bool = False
    unit: str = "/s"

    @property
    def ratio(self) -> float:
        """Ours as a multiple of the other."""
        return self.ours / self.other if self.other else 0.0

    @property
    def met(self) -> bool:
        """Whether the aim is reached."""
        return self.ratio <= self.aim if self.at_most else self.ratio >= self.aim


class Found(msgspec.Struct, frozen=True):
    """What a benchmark found: every number, and the aims that they speak to."""

    benchmark: str
    numbers: dict[str, Any]
    aims: list[Aim]


def table(aims: list[Aim]) -> list[str]:
    """Write aims as lines."""
    lines = [f"{'what':66}{'ours':>12}{'other':>12}{'ratio':>9}  aim"]
    for one in aims:
        sign = "<=" if one.at_most else ">="
        verdict = "met" if one.met else "missed"
        figures = f"{_figure(one.ours, one.unit):>12}{_figure(one.other, one.unit):>12}"
        lines.append(f"{one.what:66}{figures}{one.ratio:9.3g}  {sign} {one.aim:g}, {verdict}")
    return lines


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    packages = dict(_versions())
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **packages,
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # rivals may not be installed
            yield name, metadata.version(name)


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.machine()


def show(found: Found, *, json: bool) -> None:
    """Print what was found, for people or for machines."""
    if json:
        print(msgspec.json.encode({**msgspec.to_builtins(found), "machine": machine()}).decode())
        return
    print(msgspec.json.format(msgspec.json.encode(found.numbers), indent=2).decode())
    print("\n".join(table(found.aims)))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


class Options(argparse.ArgumentParser):
    """What every benchmark can be told: how many rounds, how short, and how to print."""

    def __init__(self, doc: str | None) -> None:
        """The first line of the module's docstring says what it is."""
        super().__init__(description=(doc or "").partition("\n")[0])
        self.add_argument("--rounds", type=int, default=5)
        self.add_argument("--seconds", type=float, default=1.0, help="for each subject of a round")
        self.add_argument("--smoke", action="store_true", help="one short round: does it work?")
        self.add_argument("--json", action="store_true")

    def given(self) -> argparse.Namespace:
        """Read the command line; a smoke test overrules what takes long."""
        given = self.parse_args()
        if given.smoke:
            given.rounds, given.seconds = 1, 0.3
        return given


def run(measured: Awaitable[Found], *, json: bool) -> None:
    """Measure and print."""

    async def measure() -> Found:
        return await measured

    show(uvloop.run(measure()), json=json)
