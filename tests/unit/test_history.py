"""The history: what each event changed, and in what words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventstore.events import Position
from projections.fold.history import replay
from tests.support.deliveries import CREATE, DELETE, UPDATE, delivery
from tests.support.events import history_of, read

Fields = dict[str, Any]
MAIL, OTHER_MAIL = {"email": "a@b.c"}, {"email": "d@e.f"}
VERIFIED, UNVERIFIED = MAIL | {"verified": True}, MAIL | {"verified": False}
PHONE: Fields = {"phone": "1", "country_code": 91, "verified": True}
SPOKEN, FOREIGN, TEXTUAL = (
    PHONE | {"verified": False},
    PHONE | {"country_code": 1},
    PHONE | {"country_code": "+91"},
)


def step(before: Fields, after: Fields, kind: str = "update") -> tuple[list[str], list[Any]]:
    """Return summary and changes of an event after a first one."""
    bodies = (delivery("u", "create", **before), delivery("u", kind, 1, **after))
    entry = history_of(*bodies)[1]
    return entry.summary, msgspec.to_builtins(entry.changes)


def lives(*events: tuple[str, Fields]) -> list[list[str]]:
    """Return the summaries of these events, one after the other."""
    bodies = (delivery("u", kind, n, **changed) for n, (kind, changed) in enumerate(events))
    return [entry.summary for entry in history_of(*bodies)]


def test_the_documented_samples() -> None:
    """The samples are created, updated without a change, deleted; the order of arrival is told."""
    entries = history_of(CREATE, UPDATE, DELETE)
    assert [entry.summary for entry in entries] == [["created"], ["nothing changed"], ["deleted"]]
    assert [len(entry.changes) for entry in entries] == [18, 0, 0]
    assert [entry.late for entry in entries] == [False] * 3
    entries = history_of(DELETE, CREATE, UPDATE)
    assert [entry.event.kind.label for entry in entries] == [
        *("user.created", "user.updated", "user.deleted")
    ]
    assert [entry.late for entry in entries] == [True, True, False]


BLOCK, UNBLOCK = {"active": False}, {"active": True}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("create", BLOCK)], [["created", "blocked"]]),
        ([("update", {})], [["first seen"]]),
        ([("update", BLOCK)], [["first seen", "blocked"]]),
        ([("delete", UNBLOCK)], [["deleted"]]),
        ([("create", {}), ("update", BLOCK)], [["created"], ["blocked"]]),
        (
            [("create", UNBLOCK), ("update", BLOCK), ("update", BLOCK), ("update", UNBLOCK)],
            [["created"], ["blocked"], ["nothing changed"], ["unblocked"]],
        ),
        ([("update", BLOCK), ("update", {})], [["first seen", "blocked"], ["nothing changed"]]),
        (
            [("create", {}), ("delete", {}), ("update", {})],
            [["created"], ["deleted"], ["restored"]],
        ),
        ([("delete", {}), ("create", {})], [["deleted"], ["created", "restored"]]),
        ([("delete", {}), ("delete", {})], [["deleted"], ["deleted"]]),
        (
            [("delete", BLOCK), ("update", UNBLOCK)],
            [["deleted", "blocked"], ["restored", "unblocked"]],
        ),
        (
            [("create", {}), ("create", {"gender": "male"})],
            [["created"], ["created", "profile changed"]],
        ),
    ],
)
def test_lives(events: list[tuple[str, Fields]], expected: list[list[str]]) -> None:
    """The words about a user's life: created, blocked, unblocked, deleted, restored."""
    distinct = [(type_, {**fields, "__v": n}) for n, (type_, fields) in enumerate(events)]
    found = [[w for w in words if w != "record updated"] for words in lives(*distinct)]
    assert [words or ["nothing changed"] for words in found] == expected


@pytest.mark.parametrize(
    ("before", "after", "summary"),
    [
        ({}, {"first_name": "B", "gender": "male"}, ["profile changed"]),
        ({}, {"loyalty": 1}, ["profile changed"]),
        ({}, {"status": "activated"}, ["profile changed"]),
        ({}, {"updated_at": "x", "__v": 1, "hash": "h"}, ["record updated"]),
        ({}, {"deleted_on": "x"}, ["record updated"]),
        ({"gender": "male"}, {"gender": "male"}, ["nothing changed"]),
        ({"gender": "male"}, {}, ["nothing changed"]),
        ({}, {"emails": [MAIL]}, ["e-mail added"]),
        ({}, {"emails": [MAIL, OTHER_MAIL]}, ["e-mail added"]),
        ({"emails": [MAIL]}, {"emails": []}, ["e-mail removed"]),
        ({"emails": [MAIL]}, {"emails": None}, ["e-mail removed"]),
        ({"emails": [MAIL]}, {"emails": [OTHER_MAIL]}, ["e-mail removed", "e-mail added"]),
        ({"emails": [UNVERIFIED]}, {"emails": [VERIFIED]}, ["e-mail verified"]),
        ({"emails": [VERIFIED]}, {"emails": [UNVERIFIED]}, ["e-mail changed"]),
        ({"emails": [MAIL]}, {"emails": [VERIFIED]}, ["e-mail verified"]),
        ({"emails": [MAIL]}, {"emails": [UNVERIFIED]}, ["e-mail changed"]),
        ({"emails": [MAIL]}, {"emails": [MAIL, MAIL]}, ["e-mail changed"]),
        ({"phone_numbers": [SPOKEN]}, {"phoneNumbers": [PHONE]}, ["phone verified"]),
        ({"phone_numbers": [PHONE]}, {"phone_numbers": [FOREIGN]}, ["phone changed"]),
        ({"phone_numbers": [PHONE]}, {"phone_numbers": [TEXTUAL]}, ["nothing changed"]),
        (
            {"phone_numbers": []},
            {"phone_numbers": [PHONE], "emails": [MAIL], "active": False, "username": "u"},
            ["blocked", "e-mail added", "phone added", "profile changed"],
        ),
    ],
)
def test_words(before: Fields, after: Fields, summary: list[str]) -> None:
    """The words about a user's data: profile, e-mail and phone, or that only the record changed."""
    assert step(before, after)[0] == summary


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"gender": "male"}, {"gender": None}, [("gender", None, "male", None)]),
        ({}, {"gender": "male"}, [("gender", None, None, "male")]),
        ({"x": 1}, {"y": 2}, [("extra.y", None, None, 2)]),
        (
            {"x": 1, "y": {"z": 1}, "w": [1]},
            {"x": None, "y": {"z": 2}, "w": [1], "gender": "male"},
            [
                ("extra.x", None, 1, None),
                ("extra.y", None, {"z": 1}, {"z": 2}),
                ("gender", None, None, "male"),
            ],
        ),
        ({"x": 1}, {"y": None}, []),
        ({}, {"emails": [MAIL]}, [("emails", "a@b.c", None, MAIL)]),
        ({"emails": [MAIL]}, {"emails": None}, [("emails", "a@b.c", MAIL, None)]),
        (
            {"emails": [MAIL | {"verified": False, "primary": True}]},
            {"emails": [MAIL | {"verified": True, "primary": True}]},
            [("emails", "a@b.c", {"verified": False}, {"verified": True})],
        ),
        (
            {"emails": [MAIL]},
            {"emails": [MAIL | {"verified": True}]},
            [("emails", "a@b.c", {"verified": None}, {"verified": True})],
        ),
        (
            {"emails": [MAIL, OTHER_MAIL]},
            {"emails": [OTHER_MAIL, {"email": "g@h.i"}]},
            [("emails", "a@b.c", MAIL, None), ("emails", "g@h.i", None, {"email": "g@h.i"})],
        ),
        ({"emails": [MAIL, OTHER_MAIL]}, {"emails": [OTHER_MAIL, MAIL]}, []),
        ({"emails": [MAIL]}, {"emails": [MAIL, MAIL]}, [("emails", None, [MAIL], [MAIL, MAIL])]),
        ({"emails": [MAIL]}, {"emails": "none"}, [("emails", None, [MAIL], "none")]),
        ({"emails": [{}]}, {"emails": [7]}, [("emails", None, [{}], [7])]),
        (
            {"phone_numbers": [PHONE]},
            {"phone_numbers": [PHONE | {"country_code": "1"}]},
            [("phone_numbers", "1", {"country_code": 91}, {"country_code": 1})],
        ),
    ],
)
def test_changes(before: Fields, after: Fields, changes: list[tuple[Any, ...]]) -> None:
    """Changes name field, from and to; contacts are matched by value, or else as a whole list."""
    expected: list[Fields] = []
    for field, key, was, now in changes:
        keyed = {} if key is None else {"key": key}
        expected.append({"field": field, "from": was, "to": now, **keyed})
    assert step(before, after)[1] == expected


def test_a_change_costs_no_more_than_itself() -> None:
    """However many unknown fields a user has, a change shows only those that the event changed."""
    names = 200
    bodies = [delivery("u", "update", n, **{f"unknown_{n}": "value"}) for n in range(names)]
    last = history_of(*bodies)[-1]
    change = {"field": f"extra.unknown_{names - 1}", "from": None, "to": "value"}
    assert msgspec.to_builtins(last.changes) == [change]
    assert last.summary == ["profile changed"]


def test_late_events() -> None:
    """An event is late when one that follows it in effective order was recorded before."""
    bodies = {n: delivery(at_ms=n, gender=str(n)) for n in range(5)}
    for arrival, late in (
        ((0, 1, 2, 3, 4), set[int]()),
        ((4, 0, 1, 2, 3), {0, 1, 2, 3}),
        ((0, 2, 1, 4, 3), {1, 3}),
        ((1, 0, 2, 3, 4), {0}),
    ):
        entries = history_of(*(bodies[n] for n in arrival))
        assert {n for n, entry in enumerate(entries) if entry.late} == late


def test_a_twin_is_not_late() -> None:
    """Of two events alike in everything, should a log hold them, neither is late."""
    (event,) = read(delivery())
    _, entries = replay([event, msgspec.structs.replace(event, position=Position(0, 2))])
    assert [(entry.event.position.number, entry.late) for entry in entries] == [
        (1, False),
        (2, False),
    ]
