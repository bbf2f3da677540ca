"""What a question about a moment costs, by how long the user's history is, over HTTP and without.

`full`: every event is a full snapshot, as the platform sends them. `partial`: the first event is,
and every later one carries one field, so that the first must be found each time. Events are
recorded a second after they occurred; `imported` has the same as `full`, recorded all at once.

Over HTTP, `/row` is the limit: the same server's answer with one row found by its key. What
`eventsourcing` does is measured in its own process, and so is ours beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
from common import Aim, Found, Options, Round, alternate, in_turn, middle, run, server, userlog_in
from eventsourcing_app import Customers
from eventsourcing_rival import environment
from load import Order, Sender
from plain import TABLE
from services import TOKEN, handwritten_service, userlog_service

from api.webhook.decode import decode
from eventstore.events import NewEvent, Stream
from projections.deliveries.values import read_time
from projections.project.projector import catch_up

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from common import Server, Userlog

APPLICATION = "000000000000000000000001"
START_MS = 1_700_000_000_000
STEP_MS = 60_000
SECOND = timedelta(seconds=1)
KINDS = ("full", "partial", "imported")
RIVAL_EVENTS = 1_000
_CALLS = 10
_ROW = "INSERT INTO plain (application_id, user_id, kind, occurred_at, payload)"
_NTH = """
SELECT recorded_at FROM userlog.events
WHERE partition = 0 AND stream_id = $1 ORDER BY position OFFSET $2 LIMIT 1
"""
SAMPLE: dict[str, Any] = msgspec.json.decode(
    resources.files("api.webhook").joinpath("samples/2-update.json").read_bytes()
)


class Subject(msgspec.Struct, frozen=True):
    """A user to ask about."""

    kind: str
    events: int

    @property
    def user_id(self) -> str:
        """Whom to ask about."""
        return f"{self.kind}-{self.events}"

    @property
    def stream(self) -> Stream:
        """Where their events are."""
        return Stream.of(APPLICATION, self.user_id, 1)

    @property
    def path(self) -> str:
        """Ask who the user was in the middle of their history."""
        at = msgspec.to_builtins(self.questions()["valid_at"][0]).replace("+", "%2B")
        return f"/v1/applications/{APPLICATION}/users/{self.user_id}?valid_at={at}"

    def event(self, n: int) -> NewEvent:
        """Make the nth event."""
        at_ms = START_MS + n * STEP_MS
        event = {"name": "user", "type": "update", "created_timestamp": at_ms}
        user: dict[str, Any] = {"user_id": self.user_id, "first_name": f"Name {n}"}
        if self.kind != "partial" or n == 0:
            user = {**SAMPLE["payload"][0]["user"], **user, "__v": n}
        body = {"event": event, "company_id": 1, "application_id": APPLICATION}
        (made,) = decode(msgspec.json.encode({**body, "payload": [{"user": user}]})).events
        if self.kind == "imported":
            return made
        return msgspec.structs.replace(made, recorded_at=made.occurred_at + SECOND)

    def questions(self) -> dict[str, Any]:
        """Ask about the middle of the history, by each time and by both."""
        middle = read_time(START_MS + self.events // 2 * STEP_MS)
        if middle is None or self.kind == "imported":
            return {"valid_at": (middle, None)}
        recorded = middle + SECOND
        later = recorded + timedelta(days=365)
        times = {"valid_at": (middle, None), "known_at": (None, recorded), "both": (middle, later)}
        return {**times, "now": (None, None)}


def subjects_of(events_max: int) -> list[Subject]:
    """Return whom to ask about: each kind of history, short and long."""
    return [Subject(kind, n) for kind in KINDS for n in (10, RIVAL_EVENTS, events_max)]


async def fill(opened: Userlog, subjects: list[Subject]) -> None:
    """Append what happened to all of them, and project it."""
    events = [one.event(n) for one in subjects for n in range(one.events)]
    events.sort(key=lambda event: (event.recorded_at is None, event.occurred_at))
    for start in range(0, len(events), 500):
        await opened.log.append(events[start : start + 500])
    await catch_up(opened.log, 500)


async def ask(opened: Userlog, subjects: list[Subject], rounds: int) -> dict[str, float]:
    """Return the median time of each question, without HTTP, in ms."""
    asked: dict[str, Callable[[], Awaitable[Any]]] = {
        f"{one.user_id} {name}": partial(opened.read_model.user, one.stream, *times)
        for one in subjects
        for name, times in one.questions().items()
    }
    for one in (one for one in subjects if one.kind == "imported"):
        recorded = await opened.pool.fetchval(_NTH, one.stream.stream_id, one.events // 2)
        asked[f"{one.user_id} known_at"] = partial(
            opened.read_model.user, one.stream, None, recorded
        )
    return await in_turn(asked, rounds, _CALLS)


async def ask_over_http(
    url: str, subjects: list[Subject], given: argparse.Namespace
) -> dict[str, Round]:
    """Ask one question after the other, of one user each, beside one row found by its key."""
    async with contextlib.AsyncExitStack() as stack:
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        await connection.execute(TABLE)
        await connection.execute(_ROW + " SELECT 'a', 'u', 'update', now(), $1", _state())
        sender = await Sender.start()
        stack.push_async_callback(sender.stop)
        ours = await stack.enter_async_context(userlog_service(url))
        by_hand = await stack.enter_async_context(handwritten_service(url, 8))

        async def send(port: int, path: str) -> Round:
            order = Order(port, "", 1, given.seconds, gets=[path], token=TOKEN)
            return (await sender.send(order)).round

        asked = {
            one.user_id: partial(send, ours, one.path) for one in subjects if one.kind == "full"
        }
        rounds = await alternate({**asked, "row": partial(send, by_hand, "/row/1")}, given.rounds)
    return {name: middle(measured) for name, measured in rounds.items()}


def _state() -> str:
    return msgspec.json.encode(SAMPLE["payload"][0]["user"]).decode()


async def ask_eventsourcing(running: Server, rounds: int) -> float:
    """Return the median time of putting an aggregate together as it was half-way, in ms."""
    bodies = [_state()] * RIVAL_EVENTS
    wrapped = [f'{{"payload": [{{"user": {one}}}]}}' for one in bodies]

    def make() -> tuple[Customers, Any]:
        customers = Customers(env=environment(running, 4))
        return customers, customers.add(wrapped)

    customers, customer = await asyncio.to_thread(make)
    half = partial(asyncio.to_thread, customers.at, customer, RIVAL_EVENTS // 2)
    found = await in_turn({"half": half}, rounds, 3)
    customers.close()
    return found["half"]


async def measure(given: argparse.Namespace) -> Found:
    """Measure one after the other what is not compared, and in turn what is."""
    subjects = subjects_of(given.events)
    async with server() as running, userlog_in(running.url) as opened:
        await fill(opened, subjects)
        ms = await ask(opened, subjects, given.rounds)
        rival = await ask_eventsourcing(running, given.rounds)
        http = await ask_over_http(running.url, subjects, given)
    few, many = (http[f"full-{n}"].p50_ms for n in (10, given.events))
    ours = ms[f"full-{RIVAL_EVENTS} valid_at"]
    what = f"point in time, {RIVAL_EVENTS:,} events / eventsourcing repository"
    return Found(
        "point in time",
        {"ms": ms, "http": http, "eventsourcing_ms": rival},
        [
            Aim(
                "point in time over HTTP, 10 events / one row by key",
                few,
                http["row"].p50_ms,
                1.5,
                at_most=True,
                unit="ms",
            ),
            Aim(
                f"point in time over HTTP, {given.events:,} events / 10",
                many,
                few,
                1.5,
                at_most=True,
                unit="ms",
            ),
            Aim(what, 1000 / ours, 1000 / rival, 30),
        ],
    )


if __name__ == "__main__":
    options = Options(__doc__)
    options.add_argument("--events", type=int, default=10_000, help="of the longest history")
    given = options.given()
    if given.smoke:
        given.events = 2_000
    run(measure(given), json=given.json)
