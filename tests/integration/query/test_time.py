"""docs/time.md: every number in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from api.cli import timeline
from api.web.times import parse_time
from projections.project.projector import catch_up
from tests.support.deliveries import encoded, entry, envelope
from tests.support.events import only

if TYPE_CHECKING:
    from tests.conftest import Stack

DOCUMENT = (Path(__file__).parents[3] / "docs/time.md").read_text()
DELIVERIES = [
    msgspec.json.decode(line) for line in DOCUMENT.splitlines() if line.startswith('{"position"')
]
ANSWERS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if re.match(r"\| (2026\S+)? ?\| (2026\S+)? ?\|", line)
]
TIMELINES = re.findall(r"^```\n(history.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.fixture
async def told(stack: Stack) -> Stack:
    """The deliveries of the document, recorded when it says, in two batches of the projector."""
    for one in DELIVERIES:
        user = entry("asha", application_id="shop", **one["user"])
        about = envelope([user], one["type"], created_timestamp=one["occurred_at"])
        made = only(encoded(about))
        recorded_at = parse_time(one["recorded_at"])
        (answer,) = await stack.log.append([msgspec.structs.replace(made, recorded_at=recorded_at)])
        assert str(answer.position) == one["position"]
        if one["position"] == "0:3":
            await catch_up(stack.log, 10)
    await catch_up(stack.log, 10)
    return stack


def test_the_document_is_read() -> None:
    """What this file looks for is there."""
    assert (len(DELIVERIES), len(ANSWERS), len(TIMELINES)) == (5, 14, 2)
    late = [one["position"] for one in DELIVERIES if one["recorded_at"] > "2026-03-05T12"]
    assert late == ["0:4", "0:5"]


async def test_answers(told: Stack) -> None:
    """Each line of the tables is what the service answers."""
    stream = told.log.stream("shop", "asha")
    for valid_at, known_at, *expected in ANSWERS:
        times = (parse_time(text) if text else None for text in (valid_at, known_at))
        found = await told.read_model.user(stream, *times)
        if found is None:
            assert expected == ["", "", "", "", "nothing: 404"]
            continue
        state: dict[str, Any] = msgspec.json.decode(found.state)
        (phone,) = state["phone_numbers"]
        verified = str(phone["verified"]).lower()
        about = [state["first_name"], phone["phone"], verified, found.lifecycle]
        assert [*about, found.as_of.position] == expected, (valid_at, known_at)


async def test_timelines(told: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """Both timelines are what the command prints, now and as known then."""
    stream = told.log.stream("shop", "asha")
    for known_at, expected in zip((None, "2026-03-05T12:00:00Z"), TIMELINES, strict=True):
        times = parse_time(known_at) if known_at else None
        timeline.show(await told.read_model.history(stream, times), "user asha of shop")
        assert capsys.readouterr().out == expected
