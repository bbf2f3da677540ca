"""What a question about a moment costs, by how long the user's history is.

`full`: every event is a full snapshot, as the platform sends them. `partial`: the first event is,
and every later one carries one field, so that the first must be found each time. Events are
recorded a second after they occurred; `imported` has the same as `full`, recorded all at once.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import timedelta
from functools import partial
from importlib import resources
from typing import Any

import msgspec
from common import in_turn, show, userlog

from api.payloads import decode
from eventstore.events import NewEvent, Stream
from projections.deliveries import moment
from projections.projector import catch_up

APPLICATION = "000000000000000000000001"
START_MS = 1_700_000_000_000
STEP_MS = 60_000
SECOND = timedelta(seconds=1)
KINDS = ("full", "partial", "imported")
_NTH = """
SELECT recorded_at FROM userlog.events
WHERE partition = 0 AND stream_id = $1 ORDER BY position OFFSET $2 LIMIT 1
"""
SAMPLE: dict[str, Any] = msgspec.json.decode(
    resources.files("api").joinpath("samples/2-update.json").read_bytes()
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
        middle = moment(START_MS + self.events // 2 * STEP_MS)
        if middle is None or self.kind == "imported":
            return {"valid_at": (middle, None)}
        recorded = middle + SECOND
        later = recorded + timedelta(days=365)
        times = {"valid_at": (middle, None), "known_at": (None, recorded), "both": (middle, later)}
        return {**times, "now": (None, None)}


async def measure(events_max: int, rounds: int, calls: int) -> dict[str, float]:
    """Return the median time of each question in ms."""
    subjects = [Subject(kind, n) for kind in KINDS for n in (10, events_max)]
    events = [one.event(n) for one in subjects for n in range(one.events)]
    events.sort(key=lambda event: (event.recorded_at is None, event.occurred_at))
    async with userlog() as opened:
        for start in range(0, len(events), 500):
            await opened.log.append(events[start : start + 500])
        await catch_up(opened.log, 500)
        asked = {
            f"{one.user_id} {name}": partial(opened.read_model.user, one.stream, *times)
            for one in subjects
            for name, times in one.questions().items()
        }
        for one in subjects[-2:]:
            middle = await opened.log.pool.fetchval(_NTH, one.stream.stream_id, one.events // 2)
            asked[f"{one.user_id} known_at"] = partial(
                opened.read_model.user, one.stream, None, middle
            )
        return await in_turn(asked, rounds, calls)


def table(ms: dict[str, float], most: int) -> list[str]:
    """Write medians and ratios as lines."""
    lines = [f"{'':20}{'10 events':>12}{f'{most:,} events':>16}{'ratio':>8}"]
    for name in (name for name in ms if "-10 " in name):
        many = ms[name.replace("-10 ", f"-{most} ")]
        label = name.replace("-10 ", ", ")
        lines.append(f"{label:20}{ms[name]:9.3f} ms{many:13.3f} ms{many / ms[name]:8.2f}")
    return lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(measure(given.events, given.rounds, given.calls))
    show({"ms": found}, table(found, given.events), json=given.json)


if __name__ == "__main__":
    main()
