"""An application's numbers by day, against a count that shares nothing with the code."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from projections.numbers import COLUMNS
from projections.project.projector import catch_up
from projections.prove.proof import prove_numbers
from projections.query.stats import days_of
from projections.rebuild.rebuild import Plan, prove_all, rebuild
from tests.support.database import begin_again, statement
from tests.support.deliveries import APP, T0, delivery, encoded, entry, envelope
from tests.support.events import BY
from tests.support.parameters import MANY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.conftest import Stack

DAY_MS = 86_400_000
FIRST = T0.date()
LAST = FIRST + timedelta(days=13)


class Told(NamedTuple):
    """An event, with its time in milliseconds after T0."""

    user: str
    at_ms: int
    kind: str
    active: bool | None

    @property
    def body(self) -> bytes:
        """The delivery that tells it."""
        fields = {} if self.active is None else {"active": self.active}
        return delivery(self.user, self.kind, self.at_ms, **fields)


def _lives(seed: int, users: int = 12, events: int = 120) -> list[Told]:
    """Make events of random lives, no two of a user at one time."""
    chance = random.Random(seed)
    kinds = ("create", "update", "update", "update", "delete")
    times = chance.sample(range(12 * DAY_MS), events)
    return [
        Told(
            f"u{chance.randrange(users)}",
            at_ms,
            chance.choice(kinds),
            chance.choice((None, True, False)),
        )
        for at_ms in times
    ]


def _counted(told: Iterable[Told]) -> dict[date, tuple[int, ...]]:
    """Count by hand, going through the days and asking of every user where they stand."""
    lives: dict[str, list[tuple[date, str]]] = {}
    flags: dict[str, bool] = {}
    for one in sorted(told, key=lambda one: one.at_ms):
        if one.active is not None:
            flags[one.user] = one.active
        state = "active" if flags.get(one.user, True) else "blocked"
        day = (T0 + timedelta(milliseconds=one.at_ms)).date()
        lives.setdefault(one.user, []).append((day, "deleted" if one.kind == "delete" else state))
    found: dict[date, tuple[int, ...]] = {}
    for n in range((LAST - FIRST).days + 1):
        today = FIRST + timedelta(days=n)
        seen: Counter[str] = Counter()
        for life in lives.values():
            was = "nobody"
            for day, state in life:
                if day == today:
                    seen["events"] += 1
                    seen["new"] += was == "nobody"
                    seen["again"] += state == "active" and was in {"blocked", "deleted"}
                    seen[state] += state != was
                was = state
            standing = [state for day, state in life if day <= today]
            seen["standing"] += standing[-1:] == ["active"]
        names = ("events", "new", "deleted", "blocked", "again", "standing")
        found[today] = tuple(seen[name] for name in names)
    return found


async def _served(
    stack: Stack, first: date = FIRST, last: date = LAST
) -> dict[date, tuple[int, ...]]:
    found = await days_of(stack.pool, stack.log.partitions, APP, first, last)
    return {
        d.date: (d.events, d.created, d.deleted, d.blocked, d.reactivated, d.active) for d in found
    }


async def _deliver(stack: Stack, told: Iterable[Told]) -> None:
    for one in told:
        assert not (await stack.ingest.deliver(one.body)).quarantined


@MANY
@pytest.mark.parametrize("seed", range(4))
async def test_any_lives(stack: Stack, seed: int) -> None:
    """Whatever users did, in whatever order it was heard, the days are as counted by hand."""
    told = _lives(seed)
    for n in range(0, len(told), 40):
        await _deliver(stack, told[n : n + 40])
        await catch_up(stack.log, 7)
        assert await _served(stack) == _counted(told[: n + 40])
    assert await stack.pool.fetchval("SELECT bool_or(late) FROM userlog.history")


async def test_part_of_the_days(stack: Stack) -> None:
    """What was before the first day counts for who is active on it, and for nothing else."""
    told = _lives(11)
    await _deliver(stack, told)
    await catch_up(stack.log, 100)
    counted = _counted(told)
    for first, last in ((0, 0), (5, 5), (3, 9), (13, 13), (0, 13)):
        days = [FIRST + timedelta(days=n) for n in range(first, last + 1)]
        expected = {day: counted[day] for day in days}
        assert await _served(stack, days[0], days[-1]) == expected


async def test_nothing_known(stack: Stack) -> None:
    """Of an application that is not known, or not by then, there are no days."""
    await _deliver(stack, [Told("u", 0, "create", None)])
    await catch_up(stack.log, 10)
    assert await days_of(stack.pool, stack.log.partitions, "other", FIRST, LAST) == []
    assert await days_of(stack.pool, stack.log.partitions, "a\0b", FIRST, LAST) == []
    before = FIRST - timedelta(days=1)
    assert await _served(stack, before, before) == {}
    assert await _served(stack, before, FIRST) == {
        before: (0, 0, 0, 0, 0, 0),
        FIRST: (1, 1, 0, 0, 0, 1),
    }
    assert len(await _served(stack, date.min, date.min + timedelta(days=9))) == 0
    assert await _served(stack, date.max, date.max) == {date.max: (0, 0, 0, 0, 0, 1)}


async def test_an_erased_user_vanishes(stack: Stack) -> None:
    """An erased user is taken out of every day, as if they had never been."""
    told = _lives(5)
    await _deliver(stack, told)
    await catch_up(stack.log, 100)
    await stack.log.erase(stack.log.stream(APP, "u3"), BY)
    left = _counted(one for one in told if one.user != "u3")
    assert left != _counted(told)
    assert await _served(stack) == left
    await catch_up(stack.log, 100)
    assert await _served(stack) == left
    assert not (await prove_numbers(stack.log, 0, None)).differing


async def test_the_last_erased(stack: Stack) -> None:
    """Of an application whose users are all erased there are no days."""
    await _deliver(stack, [Told("u", 0, "create", None)])
    await catch_up(stack.log, 10)
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    assert await _served(stack) == {}


async def test_the_first_quarter_of_all(stack: Stack) -> None:
    """What is dated with the beginning of the year 1, the zero of some languages, is counted."""
    zero = encoded(envelope([entry("u")], "create", created_timestamp="0001-01-01T00:00:00Z"))
    assert not (await stack.ingest.deliver(zero)).quarantined
    await _deliver(stack, [Told("u", 0, "update", active=False)])
    await catch_up(stack.log, 10)
    days = await _served(stack, date.min + timedelta(days=1), FIRST)
    assert days[date.min + timedelta(days=1)] == (0, 0, 0, 0, 0, 1)
    assert not (await prove_numbers(stack.log, 0, None)).differing
    await _deliver(stack, [Told("u", -1, "update", active=True)])  # late: taken back, and added
    await catch_up(stack.log, 10)
    assert not (await prove_numbers(stack.log, 0, None)).differing
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    assert not (await prove_numbers(stack.log, 0, None)).differing
    assert await _numbers(stack) == []


@MANY
async def test_rebuilt(stack: Stack) -> None:
    """A rebuild, or a projection from the beginning, counts what batch after batch has counted."""
    told = _lives(6)
    for n in range(0, len(told), 10):
        await _deliver(stack, told[n : n + 10])
        await catch_up(stack.log, 3)
    found = await _numbers(stack)
    await begin_again(stack)
    await catch_up(stack.log, 1_000)
    assert await _numbers(stack) == found
    await rebuild(stack.source, Plan(shard_events_max=50))
    assert await _numbers(stack) == found
    assert await _served(stack) == _counted(told)


async def _numbers(stack: Stack) -> list[tuple[Any, ...]]:
    columns = f"partition, application_id, quarter, {', '.join(COLUMNS)}"
    rows = await stack.pool.fetch(
        f"SELECT {columns} FROM numbers WHERE generation = (SELECT generation FROM"
        " active_generation) AND events > 0 ORDER BY 1, 2, 3"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE userlog.numbers SET active = active + 1",
        "DELETE FROM userlog.numbers",
        "UPDATE userlog.history SET lifecycle_after = 2 WHERE lifecycle_after = 1",
    ],
)
async def test_a_wrong_number_is_found(stack: Stack, damage: str) -> None:
    """Numbers that are not the sums over the history are named by a proof, with their time."""
    await _deliver(stack, [Told("u", 0, "create", None)])
    await catch_up(stack.log, 10)
    assert not (await prove_all(stack.source, Plan(), lambda *_: None)).differing
    await stack.admin.execute(damage)
    found = await prove_all(stack.source, Plan(), lambda *_: None)
    (one,) = [d for d in found.first if d.table == "numbers"]
    assert (one.application_id, one.at, one.what) == (APP, "2023-06-13T09:45:00.000Z", "differs")
    built = await rebuild(stack.source, Plan())
    assert [d.at for d in built.proof.first if d.table == "numbers"] == [one.at]
    assert not (await prove_all(stack.source, Plan(), lambda *_: None)).differing


MUCH = """
INSERT INTO userlog.numbers
SELECT 0, generation, 'app ' || app, timestamptz '2023-01-01 00:00Z' + n * interval '15 minutes',
    1, 0, 0, 0, 1, 1
FROM generate_series(1, 2) generation, generate_series(1, 20) app, generate_series(1, 2000) n
"""


async def test_only_what_is_asked_for_is_read(stack: Stack) -> None:
    """The numbers of an application come from the primary key, whatever is beside them."""
    await stack.admin.execute(MUCH)
    await stack.admin.execute("VACUUM (ANALYZE) userlog.numbers")
    args = ([0], "app 7", date(2023, 1, 5), date(2023, 1, 10))
    query = "EXPLAIN (ANALYZE, BUFFERS OFF, FORMAT JSON) " + statement("numbers")
    async with stack.pool.acquire() as connection:
        shown = ""
        for _ in range(7):  # so often that PostgreSQL may keep its plan
            shown = await connection.fetchval(query, *args)
    scans = {node["Relation Name"]: node for node in _scans(msgspec.json.decode(shown)[0]["Plan"])}
    node = scans["numbers"]
    assert node["Node Type"] == "Index Scan", shown
    assert node["Actual Rows"] == 10 * 96 - 1, shown
    assert "application_id" in node["Index Cond"], shown


def _scans(plan: Any) -> list[Any]:
    """Return the nodes of a plan that read a table."""
    below = [node for child in plan.get("Plans", []) for node in _scans(child)]
    return [plan, *below] if "Relation Name" in plan else below
