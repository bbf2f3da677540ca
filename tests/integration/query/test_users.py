from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from eventstore.events import Position
from projections.fold.poison import PoisonError
from projections.project.projector import catch_up
from projections.query.lag import lags
from projections.query.users import NotReachedError, Page, parse_page_key
from tests.support.deliveries import APP, T0, delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.query.users import Order
    from projections.query.views import Entry, History, User
    from tests.conftest import Stack

MS = timedelta(milliseconds=1)
R0 = datetime(2999, 1, 1, tzinfo=UTC)


async def _deliver(stack: Stack, *bodies: bytes) -> None:
    """Append each delivery one second after the other, whatever the clock says."""
    for body in bodies:
        head = (await stack.log.heads())[0].recorded_at
        await stack.admin.execute(
            "UPDATE userlog.log_head SET recorded_at = $1", max(head + 1000 * MS, R0)
        )
        await stack.ingest.deliver(body)
    await catch_up(stack.log, 100)


def _name(user: User | None) -> str | None:
    """Say which of the events below is the last one in an answer."""
    state: dict[str, Any] = msgspec.json.decode(user.state) if user else {}
    return state.get("first_name")


@pytest.fixture(scope="module")
async def told(looked_at: Stack) -> Stack:
    """A user whose second event, by the time it happened, came last; and one of many events."""
    bodies = [
        delivery(kind="create", at_ms=0, first_name="A", gender="x"),
        delivery(at_ms=2_000, first_name="C", active=False),
        delivery(at_ms=1_000, first_name="B", gender=None),
    ]
    await _deliver(looked_at, *bodies)
    for n in range(7):
        await looked_at.ingest.deliver(delivery("of-many", at_ms=n % 3, first_name=f"{n}"))
    await catch_up(looked_at.log, 100)
    return looked_at


async def test_now(told: Stack) -> None:
    """A user now is their newest event in effective order upon everything before."""
    found = await told.read_model.user(told.log.stream(APP, "u"))
    assert found
    assert msgspec.to_builtins(found.as_of) == {
        "position": "0:2",
        "event_type": "user.updated",
        "occurred_at": "2023-06-13T09:48:49.621Z",
        "recorded_at": "2999-01-01T00:00:01.000Z",
    }
    assert (found.application_id, found.user_id, found.company_id) == (APP, "u", 1)
    assert found.lifecycle == "blocked"
    assert msgspec.json.decode(found.state) == {
        "first_name": "C",
        "active": False,
        "gender": None,
    }


async def test_unknown(told: Stack) -> None:
    """A user nobody has told of is not there, in any application, at any time."""
    for stream in (told.log.stream(APP, "v"), told.log.stream("other", "u")):
        assert await told.read_model.user(stream) is None
        assert await told.read_model.user(stream, None, R0 + timedelta(days=1)) is None
        assert (await told.read_model.history(stream)).entries == []


@pytest.mark.parametrize(
    ("after", "name"),
    [(-1, None), (0, "A"), (999, "A"), (1000, "B"), (1999, "B"), (2000, "C"), (10**12, "C")],
)
async def test_valid_at(told: Stack, after: int, name: str | None) -> None:
    """What had happened by a moment counts, to the millisecond, however late it came."""
    found = await told.read_model.user(told.log.stream(APP, "u"), T0 + after * MS, None)
    assert _name(found) == name


@pytest.mark.parametrize(
    ("after", "name", "entries"),
    [(-1, None, 0), (0, "A", 1), (999, "A", 1), (1000, "C", 2), (1999, "C", 2), (2000, "C", 3)],
)
async def test_known_at(told: Stack, after: int, name: str | None, entries: int) -> None:
    """What was recorded by a moment counts, to the millisecond, whenever it happened."""
    stream = told.log.stream(APP, "u")
    assert _name(await told.read_model.user(stream, None, R0 + after * MS)) == name
    history = await told.read_model.history(stream, R0 + after * MS)
    assert len(history.entries) == entries


async def test_both(told: Stack) -> None:
    """Asked for both, what had happened by then counts as far as it was recorded by then."""
    stream = told.log.stream(APP, "u")

    async def name(valid_ms: int, known_ms: int) -> str | None:
        found = await told.read_model.user(stream, T0 + valid_ms * MS, R0 + known_ms * MS)
        return _name(found)

    assert await name(1_000, 2_000) == "B"
    assert await name(1_000, 1_999) == "A"
    assert await name(999, 2_000) == "A"
    assert await name(2_000, 1_000) == "C"
    assert await name(1_999, 1_000) == "A"
    assert await name(2_000, -1) is None


async def test_history_then_and_now(told: Stack) -> None:
    """What is late and what changed is told as it was known then, and as it is known now."""
    stream = told.log.stream(APP, "u")

    def told_as(history: History) -> list[tuple[Any, ...]]:
        steps = ({c.field: c.new for c in e.changes} for e in history.entries)
        return [(e.position, e.late, step) for e, step in zip(history.entries, steps, strict=True)]

    first = ("0:1", False, {"first_name": "A", "gender": "x"})
    second = ("0:2", False, {"first_name": "C", "active": False})
    late = ("0:3", True, {"first_name": "B", "gender": None})
    assert told_as(await told.read_model.history(stream, R0 + 1000 * MS)) == [first, second]
    now = await told.read_model.history(stream)
    assert told_as(now) == [first, late, second]
    assert now == await told.read_model.history(stream, R0 + 2000 * MS)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("known_at", [None, R0 + timedelta(days=1)], ids=["now", "then"])
async def test_pages(
    told: Stack, order: Literal["asc", "desc"], limit: int, known_at: datetime | None
) -> None:
    """Following `next` visits every entry once, in order, in pages as long as asked for."""
    stream = told.log.stream(APP, "of-many")
    model = told.read_model

    async def page(after: str | None) -> History:
        mark = None if after is None else parse_page_key(after)
        return await model.history(stream, known_at, Page(order, limit, mark))

    pages = [await page(None)]
    while pages[-1].next and len(pages) < 9:
        pages.append(await page(pages[-1].next))
    visited = [entry for page in pages for entry in page.entries]
    whole = (await model.history(stream)).entries
    assert visited == (whole if order == "asc" else whole[::-1])
    assert len({entry.position for entry in visited}) == 7
    assert [len(page.entries) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-7 // limit)


@pytest.mark.parametrize("known_at", [None, R0 + timedelta(days=1)], ids=["now", "then"])
async def test_history_until(told: Stack, known_at: datetime | None) -> None:
    """`valid_at` ends a history, inclusively, and leaves its entries as they are."""
    stream = told.log.stream(APP, "u")
    whole = (await told.read_model.history(stream, known_at)).entries
    for after_ms, count in ((-1, 0), (0, 1), (999, 1), (1_000, 2), (1_999, 2), (2_000, 3)):
        until = T0 + timedelta(milliseconds=after_ms, microseconds=999)
        orders: list[tuple[Order, list[Entry]]] = [("asc", whole[:count])]
        orders.append(("desc", whole[:count][::-1]))
        for order, expected in orders:
            page = Page(order, valid_at=until)
            assert (await told.read_model.history(stream, known_at, page)).entries == expected
            rest = Page(order, limit=1, valid_at=until)
            visited = [await told.read_model.history(stream, known_at, rest)]
            while visited[-1].next and len(visited) < 9:
                rest = msgspec.structs.replace(rest, after=parse_page_key(visited[-1].next))
                visited.append(await told.read_model.history(stream, known_at, rest))
            assert [entry for one in visited for entry in one.entries] == expected


async def test_a_clock_that_runs_ahead(stack: Stack) -> None:
    """An event dated far ahead is marked, stands where it was recorded, and shadows nothing."""
    ahead = (datetime(9000, 1, 1, tzinfo=UTC) - T0) // MS
    later = (R0 - T0) // MS + 5_000
    await _deliver(
        stack,
        delivery(kind="create", first_name="A"),
        delivery(at_ms=ahead, first_name="B"),
        delivery(at_ms=later, first_name="C"),
    )
    stream = stack.log.stream(APP, "u")
    assert _name(await stack.read_model.user(stream)) == "C"
    for known_at in (None, R0 + timedelta(days=1)):
        found = (await stack.read_model.history(stream, known_at)).entries
        assert [(e.stated_at, e.late) for e in found] == [
            (None, False),
            ("9000-01-01T00:00:00.000Z", False),
            (None, False),
        ]
        assert found[1].occurred_at == found[1].recorded_at
    at = R0 + 1000 * MS
    assert _name(await stack.read_model.user(stream, at)) == "B"
    assert _name(await stack.read_model.user(stream, at - MS)) == "A"
    assert _name(await stack.read_model.user(stream, None, at)) == "B"


async def test_a_field_of_long_ago(stack: Stack) -> None:
    """What only old events tell is found however many follow, whoever knows of it."""
    names = [f"{n}" for n in range(60)]
    await _deliver(stack, delivery(at_ms=-1, gender="x", first_name="before"))
    for n, name in enumerate(names):
        await stack.ingest.deliver(delivery(at_ms=n, first_name=name, active=True))
    await stack.ingest.deliver(delivery(at_ms=59, rr_id="r", active=True, newcomer=1))
    stream = stack.log.stream(APP, "u")
    for _ in ("not projected", "projected"):
        found = await stack.read_model.user(stream, T0 + 58 * MS)
        assert found
        assert msgspec.json.decode(found.state) == {
            "active": True,
            "first_name": "58",
            "gender": "x",
        }
        found = await stack.read_model.user(stream, T0 + 59 * MS)
        assert found
        assert msgspec.json.decode(found.state) == {
            "active": True,
            "first_name": "59",
            "gender": "x",
            "rr_id": "r",
            "extra": {"newcomer": 1},
        }
        await catch_up(stack.log, 100)


async def test_one_moment_of_many_events(stack: Stack) -> None:
    """Events of one moment are ordered by version, not by arrival, however many there are."""
    for n in range(12):
        await stack.ingest.deliver(delivery(first_name=f"{n}", gender="x", __v=100 - n))
    for _ in ("not projected", "projected"):
        assert _name(await stack.read_model.user(stack.log.stream(APP, "u"), T0)) == "0"
        await catch_up(stack.log, 100)


async def test_late_events_while_reading(stack: Stack) -> None:
    """A field told by a late event that no projector has seen yet counts at once."""
    full = {"first_name": "A", "gender": "x"}
    for n in range(10):
        await stack.ingest.deliver(delivery(at_ms=n, **full))
    await catch_up(stack.log, 100)
    await stack.ingest.deliver(delivery(at_ms=-5, dob="2000-01-01"))
    found = await stack.read_model.user(stack.log.stream(APP, "u"), T0 + 100 * MS)
    assert found
    assert msgspec.json.decode(found.state) == {**full, "dob": "2000-01-01"}


async def test_reads_no_further_than_needed(stack: Stack) -> None:
    """Of a long history of full snapshots, a question about a moment opens one event."""
    for n in range(40):
        await stack.ingest.deliver(delivery(at_ms=n, first_name=f"{n}", gender="x"))
    await catch_up(stack.log, 100)
    # Whoever opened any other event would fail at it.
    await stack.admin.execute(
        "UPDATE userlog.events SET payload = '\\xdead' WHERE occurred_at <> $1", T0 + 20 * MS
    )
    stream = stack.log.stream(APP, "u")
    assert _name(await stack.read_model.user(stream, T0 + 20 * MS)) == "20"
    with pytest.raises(PoisonError, match="0:20 can't be read"):
        await stack.read_model.user(stream, T0 + 19 * MS)


async def test_far_away_times(stack: Stack) -> None:
    """Events of the first and the last moment a time can have are found with the rest."""
    last = (datetime.max.replace(tzinfo=UTC) - T0) // MS
    first = (datetime.min.replace(tzinfo=UTC) - T0) // MS
    await _deliver(stack, *(delivery(at_ms=ms, first_name=f"{ms}") for ms in (last, first, 0)))
    stream = stack.log.stream(APP, "u")
    now = await stack.read_model.user(stream)
    assert _name(now) == f"{last}"
    assert await stack.read_model.user(stream, None, R0 + timedelta(days=1)) == now
    assert len((await stack.read_model.history(stream)).entries) == 3


async def test_wait_for(stack: Stack) -> None:
    """Waiting ends when the read model is there, at once if it is, or says how far it is."""
    await stack.ingest.deliver(delivery())
    with pytest.raises(NotReachedError, match="not reached 0:1"):
        await stack.read_model.wait_for(Position(0, 1), 0.01)
    await catch_up(stack.log, 10)
    await stack.read_model.wait_for(Position(0, 1), 0)
    await stack.read_model.wait_for(Position(0, 0), 0)
    with pytest.raises(NotReachedError):
        await stack.read_model.wait_for(Position(0, 2), 0)


async def test_lag(stack: Stack) -> None:
    """The lag counts the events that wait and the time the oldest of them has waited."""
    step: Callable[[], Any] = partial(lags, stack.pool)
    (lag,) = await step()
    assert (lag.lag_positions, lag.lag_s, lag.active, lag.state) == (0, 0.0, True, "live")
    for n in range(3):
        await stack.ingest.deliver(delivery(at_ms=n))
    (lag,) = await step()
    assert (lag.position, lag.head, lag.lag_positions) == (0, 3, 3)
    assert lag.lag_s > 0
