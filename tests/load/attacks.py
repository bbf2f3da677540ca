"""Attack a service, and see what an honest sender and reader notice of it.

    make attack-test

Each attack meets a service of its own, on an embedded PostgreSQL of its own, both listening on
loopback only. First the honest client is alone there. Then come the attackers: paced, a few rounds,
of which the median is shown, and once as fast as they can. The service's work is that of its
processes and of PostgreSQL, until it has nothing left to do, for half a minute at most, less what
the honest client's answers cost when it was alone. Refusals and memory are those of the worst
round.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import attackers
import honest
import msgspec
from attack_kinds import ATTACKS, MADE_UP_MS, NO_SIGNATURE_MS, Attack, Target
from processor import Usage
from started import Child, child, serving

from api.config.settings import Settings
from tests.support.deliveries import APP

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOWER_MAX = 3
"""The honest p99 under a paced attack, as a multiple of that alone."""
GROWTH_MB_MAX = 20
"""Beyond what bodies that arrive may take."""
ARRIVING_MB = Settings().arriving_bytes_max / (1 << 20)
WARM_UP_S = 2.0
BEFORE_S = 0.3
AFTER_S = 3.0
"""The honest client goes on for so long when the attackers have left."""
LOOK_S = 0.5
IDLE = 0.1
"""Of one processor: a service that uses less has nothing left to do."""
SETTLE_S = 30.0
COLUMNS = {
    "attack": 17,
    "how": 6,
    "begun/s": 9,
    "ms each": 9,
    "p50 ms": 8,
    "p99 ms": 8,
    "refused": 8,
    "reads": 7,
    "MB": 6,
}


class Round(NamedTuple):
    """What was measured in a round. Refused are honest requests not answered with 200."""

    rate: float
    cost_ms: float
    p50_ms: float
    p99_ms: float
    refused: int
    reads_refused: int
    growth_mb: float
    answers: Counter[int]
    """Of the attackers, by their status; 0: none."""


class Rounds(NamedTuple):
    """What was measured of an attack."""

    alone: Round
    paced: Round
    full: Round


class Battle:
    """One attack on a service."""

    def __init__(self, attack: Attack, order: honest.Order, target: Target, usage: Usage) -> None:
        self._attack, self._target, self._usage = attack, target, usage
        self._order = order
        self.alone: Round

    async def begin(self, client: Child, seconds: float) -> None:
        """Let the honest client be alone."""
        await self._ask(client, WARM_UP_S)
        await self._settled()
        self._usage.forget_peak()
        memory_mb, before_s = self._usage.memory_mb(), self._usage.processor_s()
        found = await self._ask(client, seconds)
        used_s = self._usage.processor_s() - before_s
        asked = sum(found.deliveries.values())
        growth_mb = self._usage.peak_mb() - memory_mb
        self.alone = _round(found, asked / seconds, 1000 * used_s / asked, growth_mb, Counter())

    async def round(self, client: Child, many: Child, seconds: float, *, paced: bool) -> Round:
        """Let the attackers come for so long."""
        await self._settled()
        self._usage.forget_peak()
        memory_mb, before_s = self._usage.memory_mb(), self._usage.processor_s()
        asking = asyncio.create_task(self._ask(client, BEFORE_S + seconds, AFTER_S))
        try:
            await asyncio.sleep(BEFORE_S)
            order = attackers.Order(self._attack.name, self._target, seconds, paced)
            report = await many.obey(order, attackers.Report)
            found = await asking
        finally:
            asking.cancel()
        await self._settled()
        used_s = self._usage.processor_s() - before_s
        served = found.deliveries.get(200, 0) + found.reads.get(200, 0)
        used_s -= served / 2 * self.alone.cost_ms / 1000
        cost_ms = 1000 * max(0, used_s) / max(1, self._done(report))
        growth_mb = self._usage.peak_mb() - memory_mb
        rate = report.begun / report.seconds
        return _round(found, rate, cost_ms, growth_mb, Counter(report.statuses))

    def _done(self, report: attackers.Report) -> int:
        """Count those that the work was for: requests that waited to the end cost nothing yet."""
        answered = sum(report.statuses.values())
        return answered if self._attack.whole and answered else report.begun

    async def _ask(self, client: Child, seconds: float, more_s: float = 0) -> honest.Report:
        order = msgspec.structs.replace(self._order, seconds=seconds + more_s, measured_s=seconds)
        return await client.obey(order, honest.Report)

    async def _settled(self) -> None:
        """Wait until the service has nothing left to do, but not for ever."""
        deadline = time.monotonic() + SETTLE_S
        before_s, used_s = self._usage.processor_s(), LOOK_S
        while used_s > IDLE * LOOK_S and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
            now_s = self._usage.processor_s()
            before_s, used_s = now_s, now_s - before_s


def _round(
    found: honest.Report, rate: float, cost_ms: float, growth_mb: float, answers: Counter[int]
) -> Round:
    refused, reads_refused = (
        sum(count for status, count in one.items() if status != 200)
        for one in (found.deliveries, found.reads)
    )
    times = (found.p50_ms, found.p99_ms)
    return Round(rate, cost_ms, *times, refused, reads_refused, growth_mb, answers)


async def battle(attack: Attack, rounds: int, seconds: float, full_s: float) -> Rounds:
    """Run one attack on a service of its own."""
    async with serving() as (home, service), child(honest) as client, child(attackers) as many:
        await honest.prepare(service, home.secret)
        port = int(service.base.rpartition(":")[2])
        tokens = [
            (await home.json("token", "create", "--name", "t", *options))["token"]
            for options in ((), ("--application", APP))
        ]
        (head,) = (await service.get("/v1/status")).body["heads"]
        last = int(head["position"].partition(":")[2])
        order = honest.Order(port, home.secret, home.token, 0, 0)
        target = Target(port, home.secret, tokens[0], tokens[1], last)
        one = Battle(attack, order, target, Usage(service.process.pid, home.postmaster()))
        await one.begin(client, seconds)
        paced = [await one.round(client, many, seconds, paced=True) for _ in range(rounds)]
        full = await one.round(client, many, full_s, paced=False)
    return Rounds(one.alone, middle(paced), full)


def middle(rounds: list[Round]) -> Round:
    """Return the median of what was measured, and the worst of what must not be."""
    return Round(
        median(one.rate for one in rounds),
        median(one.cost_ms for one in rounds),
        median(one.p50_ms for one in rounds),
        median(one.p99_ms for one in rounds),
        max(one.refused for one in rounds),
        max(one.reads_refused for one in rounds),
        max(one.growth_mb for one in rounds),
        sum((one.answers for one in rounds), Counter[int]()),
    )


def missed(attack: Attack, found: Round, alone: Round | None) -> list[str]:
    """Say which bars a row misses; that of p99 is for paced attacks, which have an `alone`."""
    bars = {
        "deliveries refused": (found.refused, 0),
        "processor": (found.cost_ms, attack.cost_ms),
        "memory": (found.growth_mb, ARRIVING_MB + GROWTH_MB_MAX),
        "p99": (found.p99_ms, alone and SLOWER_MAX * alone.p99_ms),
    }
    return [name for name, (value, most) in bars.items() if most is not None and value > most]


def row(name: str, how: str, found: Round, missing: list[str]) -> str:
    """Write a line of the table."""
    values = (
        *(name, how, f"{found.rate:.3g}", f"{found.cost_ms:.3g}", f"{found.p50_ms:.1f}"),
        *(f"{found.p99_ms:.0f}", str(found.refused), str(found.reads_refused)),
        f"{found.growth_mb:+.0f}",
    )
    answers = " ".join(f"{status}:{count}" for status, count in found.answers.most_common(3))
    return f"{line(values)}  {answers:30}{', '.join(missing)}"


def line(values: Iterable[str]) -> str:
    """Write values below each other."""
    columns = zip(values, COLUMNS.values(), strict=True)
    return "".join(
        f"{value:{width}}" if width > 9 else f"{value:>{width}}" for value, width in columns
    )


async def run(names: list[str], rounds: int, seconds: float, full_s: float) -> int:
    """Run attacks and print the table; return how many bars are missed."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel, asyncio.current_task())
    print(f"{line(COLUMNS)}  {'answers':30}misses", flush=True)
    count = 0
    for name in names:
        attack = ATTACKS[name]
        found = await battle(attack, rounds, seconds, full_s)
        print(row(name, "alone", found.alone, []), flush=True)
        for how, one in (("paced", found.paced), ("full", found.full)):
            missing = missed(attack, one, found.alone if how == "paced" else None)
            count += len(missing)
            print(row("", how, one, missing), flush=True)
    print(
        f"{count} bars missed: no delivery refused; honest p99 at most {SLOWER_MAX} times that"
        f" alone while paced; memory at most +{ARRIVING_MB + GROWTH_MB_MAX:.0f} MB; processor"
        f" below {NO_SIGNATURE_MS} ms without a signature, below {MADE_UP_MS} ms with a made-up one"
    )
    return count


def _cancel(task: asyncio.Task[Any] | None) -> None:
    assert task
    task.cancel()


def main() -> None:
    """Attack services of its own; exit 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=ATTACKS, help="can be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="paced rounds of each attack")
    parser.add_argument("--seconds", type=float, default=10, help="of a paced round")
    parser.add_argument("--full", type=float, default=20, help="seconds at full speed")
    parser.add_argument("--short", action="store_true", help="one round of 3 s, 3 s at full speed")
    given = parser.parse_args()
    # In the background of a script it is ignored, here and in all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    times = (1, 3, 3) if given.short else (given.rounds, given.seconds, given.full)
    try:
        count = asyncio.run(run(given.only or list(ATTACKS), *times))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
