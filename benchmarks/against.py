"""The working tree beside another revision: what an event costs in each of them.

    python benchmarks/against.py HEAD~20
    python benchmarks/against.py v0.1.0 --rounds 10 --events 50000 --json FILE

Each side is a black box with a venv and databases of its own, of which no more is used than
commands and HTTP. Both get the same deliveries. They take turns at each step of a round, and each
round begins with new databases, in even rounds those of one side first, in odd those of the other.

What counts is the processor time of an event, which a busy machine changes less than it changes
rates. It is that of userlog and of PostgreSQL, also of processes that have ended. Of commands, time
and processor time of the same command with nothing to do are taken off (the median of all rounds),
so that an event does not pay for the start of Python. Before each kind there is a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
from black_box import STEP_S, BlackBox, CannotError, Cost
from checkouts import Checkout, checkout, working_tree
from common import machine
from load import Order, Sender

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

KINDS = ("deliveries", "projected", "export", "import", "rebuild")
BYTES = "bytes an event, with indexes"
Numbers: TypeAlias = "dict[str, dict[str, list[float]]]"
_PATH = "/webhooks/fynd"
_PART = 2_000
# Less can't be told from nothing.
_LEAST_S = 0.001
_COLUMNS = (
    *(("before", 9), ("now", 9), ("ratio", 8)),
    *(("range of ratio", 16), ("of before", 18), ("of now", 18)),
)


class Plan(msgspec.Struct, frozen=True):
    """How much a round measures."""

    events: int
    users: int
    connections: int


class Costs(msgspec.Struct):
    """What a round has found of a side; `nothing` is what commands take with nothing to do."""

    taken: dict[str, Cost] = {}
    nothing: dict[str, Cost] = {}
    sizes: dict[str, int] = {}
    missing: dict[str, str] = {}
    """Why a kind can't be measured."""


class Subject:
    """One side in one round: a log that is filled, and one that takes what the first exports."""

    def __init__(self, python: Path, folder: Path, plan: Plan) -> None:
        self._python = python
        self._folder = folder
        self._plan = plan
        self._lines = folder / "log.jsonl"
        self._first: BlackBox
        self._second: BlackBox
        self._sender: Sender
        self.found = Costs()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Open both logs; where no service starts, everything is missing."""
        self._folder.mkdir()
        async with contextlib.AsyncExitStack() as stack:
            with self._trying("deliveries"):
                serving = partial(BlackBox.serving, self._python)
                self._first = await stack.enter_async_context(serving(self._folder / "first"))
                self._second = await stack.enter_async_context(serving(self._folder / "second"))
            self._sender = await Sender.start(self._plan.users)
            stack.push_async_callback(self._sender.stop)
            yield

    async def take(self, step: Step) -> None:
        """Go through a step, unless one that it needs has failed."""
        missing = self.found.missing
        if step.needs in missing:
            missing[step.kind] = f"it needs what is missing of {step.needs}"
        elif step.kind not in missing:
            with self._trying(step.kind):
                await step.work(self)

    @contextlib.contextmanager
    def _trying(self, kind: str) -> Generator[None]:
        """Note why a kind can't be measured."""
        try:
            yield
        except CannotError as error:
            self.found.taken.pop(kind, None)
            self.found.missing[kind] = str(error)

    async def deliver(self, count: int) -> None:
        """Take the next deliveries."""
        port, connections = self._first.service.port, self._plan.connections
        order = Order(port, _PATH, connections, STEP_S, count=count)
        before = self.found.taken.get("deliveries")
        if before is None:
            await self._first.checkpoint()
        try:
            sending = asyncio.wait_for(self._sender.send(order), 2 * STEP_S)
            cost, report = await self._first.of_service(sending)
        except (AssertionError, TimeoutError, msgspec.DecodeError) as error:
            raise CannotError(f"not every delivery was answered with 200: {error}") from None
        _expect("deliveries that were taken", report.statuses[200], count)
        # Without the time in which the sender has made and signed them.
        cost = cost._replace(seconds=count / report.round.rate)
        self.found.taken["deliveries"] = before.plus(cost) if before else cost

    async def project(self) -> None:
        """Project all of it, and weigh the tables."""
        await self._nothing("projected", "project", "--once")
        cost, _ = await self._first.of_command("project", "--once")
        _expect("positions that are not projected", await _lag(self._first), 0)
        self.found.taken["projected"] = cost
        self.found.sizes = await self._first.sizes()

    async def export(self) -> None:
        """Write the log out."""
        await self._nothing("export", "export", "--out", str(self._folder / "nothing.jsonl"))
        cost, _ = await self._first.of_command("export", "--out", str(self._lines))
        with self._lines.open("rb") as lines:
            _expect("exported lines", sum(1 for _ in lines), self._plan.events)
        self.found.taken["export"] = cost

    async def rebuild(self) -> None:
        """Rebuild what is projected."""
        await self._nothing("rebuild", "rebuild")
        self.found.taken["rebuild"], _ = await self._first.of_command("rebuild")

    async def import_it(self) -> None:
        """Read what was written out into the second log."""
        empty = self._folder / "empty.jsonl"
        empty.touch()
        await self._nothing("import", "import", str(empty))
        cost, printed = await self._second.of_command("import", "--json", str(self._lines))
        _expect("imported events", msgspec.json.decode(printed)["appended"], self._plan.events)
        self.found.taken["import"] = cost

    async def _nothing(self, kind: str, *command: str) -> None:
        """Run a command where there is nothing to do yet."""
        self.found.nothing[kind], _ = await self._second.of_command(*command)


class Step(NamedTuple):
    """What is measured, which kind must have gone well before, and how it is done."""

    kind: str
    needs: str
    work: Callable[[Subject], Awaitable[None]]


def steps(plan: Plan) -> Iterator[Step]:
    """Return all steps; deliveries come in parts, so that both sides see the same minutes."""
    for start in range(0, plan.events, _PART):
        count = min(_PART, plan.events - start)
        yield Step("deliveries", "", partial(Subject.deliver, count=count))
    yield Step("projected", "deliveries", Subject.project)
    yield Step("export", "deliveries", Subject.export)
    yield Step("rebuild", "projected", Subject.rebuild)
    yield Step("import", "export", Subject.import_it)


async def _lag(box: BlackBox) -> int:
    status: dict[str, Any] = msgspec.json.decode(await box.command("status", "--json"))
    return max(int(one["lag_positions"]) for one in status["projections"])


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise CannotError(f"{what}: {found} instead of {expected}")


async def measure_round(pythons: dict[str, Path], plan: Plan) -> dict[str, Costs]:
    """Measure one round of both sides, in a temporary directory; the first begins."""
    with tempfile.TemporaryDirectory(prefix="userlog-bench-") as folder:
        sides = {
            name: Subject(python, Path(folder) / name, plan) for name, python in pythons.items()
        }
        async with contextlib.AsyncExitStack() as stack:
            for side in sides.values():
                await stack.enter_async_context(side.opened())
            order = [*sides.values()]
            for step in steps(plan):
                for side in order:
                    await side.take(step)
                order.reverse()
        return {name: side.found for name, side in sides.items()}


async def measure(sides: dict[str, Checkout], rounds: int, plan: Plan) -> dict[str, list[Costs]]:
    """Measure both sides, round after round."""
    task = asyncio.current_task()
    assert task is not None
    # What is told to end ends services and databases too.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    pythons = {name: side.python for name, side in sides.items()}
    found: dict[str, list[Costs]] = {name: [] for name in sides}
    for n in range(rounds):
        print(f"round {n + 1} of {rounds} ...", file=sys.stderr, flush=True)
        for name, costs in (await measure_round(pythons, plan)).items():
            found[name].append(costs)
        # The one that is started first costs 2 to 3 % more, whichever it is.
        pythons = dict(reversed(pythons.items()))
    return found


def numbers_of(rounds: list[Costs], events: int) -> Numbers:
    """Return a side's numbers: of each kind, of each number what each round gave."""
    found: Numbers = {}
    for one in rounds:
        for kind, cost in one.taken.items():
            nothing = [other.nothing[kind] for other in rounds if kind in other.nothing]
            _add(found, kind, _of_kind(_without(cost, nothing), events))
        if one.sizes:
            each = {name: size / events for name, size in one.sizes.items()}
            _add(found, BYTES, {"all": sum(each.values()), **each})
    return found


def _add(to: Numbers, kind: str, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        to.setdefault(kind, {}).setdefault(name, []).append(value)


def _without(cost: Cost, nothing: list[Cost]) -> Cost:
    """Take off what the command takes with nothing to do, but for what it writes."""
    if not nothing:
        return cost
    return cost._replace(
        seconds=cost.seconds - median(one.seconds for one in nothing),
        userlog_s=cost.userlog_s - median(one.userlog_s for one in nothing),
        postgres_s=cost.postgres_s - median(one.postgres_s for one in nothing),
    )


def _of_kind(cost: Cost, events: int) -> dict[str, float]:
    return {
        "microseconds an event": 1e6 * (cost.userlog_s + cost.postgres_s) / events,
        "of userlog": 1e6 * cost.userlog_s / events,
        "of PostgreSQL": 1e6 * cost.postgres_s / events,
        "events a second": events / max(cost.seconds, _LEAST_S),
        "bytes of WAL an event": cost.wal_bytes / events,
    }


def table(before: Numbers, now: Numbers) -> list[str]:
    """Write medians of all rounds, and the least and the most; a ratio is of one round."""
    lines = [_line("", [name for name, _ in _COLUMNS])]
    for kind in (*KINDS, BYTES):
        lines.append(kind)
        theirs, ours = before.get(kind, {}), now.get(kind, {})
        # A side may have a table alone.
        names = dict.fromkeys((*theirs, *ours))
        lines += [
            _line(f"{'    ' if name.startswith('of ') else '  '}{name}", _cells(theirs, ours, name))
            for name in names
            if kind != BYTES or _counts(name, theirs) or _counts(name, ours)
        ]
    return lines


def _line(name: str, cells: list[str]) -> str:
    figures = (f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    return f"{name:28}{''.join(figures)}"


def _counts(name: str, sizes: dict[str, list[float]]) -> bool:
    """Say whether a table is worth a line."""
    return name in sizes and median(sizes[name]) >= 0.01 * median(sizes["all"])


def _cells(before: dict[str, list[float]], now: dict[str, list[float]], name: str) -> list[str]:
    theirs, ours = before.get(name, []), now.get(name, [])
    ratios: list[float] = []
    if len(ours) == len(theirs) and min(theirs, default=0) > 0:
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return [
        *(_middle(theirs, _figure), _middle(ours, _figure), _middle(ratios, _ratio)),
        *(_range(ratios, _ratio), _range(theirs, _figure), _range(ours, _figure)),
    ]


def _middle(values: list[float], write: Callable[[float], str]) -> str:
    return write(median(values)) if values else "-"


def _range(values: list[float], write: Callable[[float], str]) -> str:
    return f"{write(min(values))} to {write(max(values))}" if values else "-"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def missing(name: str, rounds: list[Costs]) -> list[str]:
    """Say what a side could not do, once for each reason."""
    found = {(kind, why) for one in rounds for kind, why in one.missing.items()}
    return [f"{name} lacks {kind}: {why}" for kind, why in sorted(found)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision", help="what the working tree is measured beside")
    parser.add_argument("--rounds", type=int, default=6, help="best even")
    parser.add_argument("--events", type=int, default=20_000, help="deliveries of a round")
    parser.add_argument("--events-of-a-user", type=int, default=5, help="on the average")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    parser.add_argument("--smoke", action="store_true", help="one short round: does it work?")
    given = parser.parse_args()
    if given.smoke:
        given.rounds, given.events = 1, 500
    plan = Plan(given.events, max(1, given.events // given.events_of_a_user), given.connections)
    sides = {"before": checkout(given.revision), "now": working_tree()}
    found = asyncio.run(measure(sides, given.rounds, plan))
    numbers = {name: numbers_of(rounds, plan.events) for name, rounds in found.items()}
    lacking = {name: missing(name, rounds) for name, rounds in found.items()}
    if given.json:
        about = {"plan": plan, "sides": {name: side._asdict() for name, side in sides.items()}}
        every = {**about, "numbers": numbers, "missing": lacking, "machine": machine()}
        given.json.write_bytes(msgspec.json.encode(every, enc_hook=str))
    print("\n".join(f"{name}: {side.about}" for name, side in sides.items()))
    print(f"{plan.events:,} events of {plan.users:,} users, rounds: {given.rounds}")
    print("\n".join([*table(**numbers), *lacking["before"], *lacking["now"]]))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    main()
