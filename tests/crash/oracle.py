"""What must be true after any crash, worked out without the code under test.

It knows what was sent, reads what an export and the HTTP interface say, and folds users in its
own, plainest way.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

KINDS = ("create", "update", "delete")


class Sent(NamedTuple):
    """An event that was acknowledged. `serial` is unique, and stands in the user's `rr_id`."""

    serial: str
    application_id: str
    user_id: str
    kind: str
    occurred_at: int
    fields: dict[str, Any]


class Comparison(NamedTuple):
    """Of the events acknowledged: how many the log lacks, has twice, or has without a sender."""

    lost: int
    doubled: int
    unknown: int


def serial_of(delivery: dict[str, Any]) -> str:
    """Find an event's serial in its delivery."""
    serial: str = delivery["payload"][0]["user"]["rr_id"]
    return serial


def compare(sent: list[Sent], exported: list[bytes]) -> Comparison:
    """Hold the log against what was acknowledged."""
    there = Counter(serial_of(json.loads(line)) for line in exported)
    expected = {event.serial for event in sent}
    lost = sum(1 for serial in expected if there[serial] == 0)
    doubled = sum(1 for count in there.values() if count > 1)
    return Comparison(lost, doubled, len(there.keys() - expected))


def fold(sent: list[Sent]) -> dict[tuple[str, str], tuple[str, dict[str, Any], list[str]]]:
    """Return each user's lifecycle, fields, and the kinds of their history, in effective order."""
    folded: dict[tuple[str, str], tuple[str, dict[str, Any], list[str]]] = {}
    for user, events in _users(sent).items():
        fields: dict[str, Any] = {}
        for event in events:
            fields |= event.fields
        lifecycle = _lifecycle(events[-1].kind, fields)
        folded[user] = lifecycle, fields, [f"user.{event.kind}d" for event in events]
    return folded


def steps(sent: list[Sent], application_id: str) -> dict[str, list[int]]:
    """Return by day how many users were new, deleted, blocked, and the change in active ones."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (ours, _), events in _users(sent).items():
        was, fields = "", dict[str, Any]()
        for event in events if ours == application_id else []:
            fields |= event.fields
            now = _lifecycle(event.kind, fields)
            day = found[f"{datetime.fromtimestamp(event.occurred_at / 1000, UTC):%Y-%m-%d}"]
            day[0] += not was
            day[1] += now == "deleted" != was
            day[2] += now == "blocked" != was
            day[3] += (now == "active") - (was == "active")
            was = now
    return dict(found)


def _users(sent: list[Sent]) -> dict[tuple[str, str], list[Sent]]:
    """Return each user's events in effective order."""
    users: dict[tuple[str, str], list[Sent]] = defaultdict(list)
    for event in sent:
        users[event.application_id, event.user_id].append(event)
    for events in users.values():
        events.sort(key=lambda event: (event.occurred_at, KINDS.index(event.kind)))
    return users


def _lifecycle(kind: str, fields: dict[str, Any]) -> str:
    if kind == "delete":
        return "deleted"
    return "active" if fields.get("active", True) is not False else "blocked"
