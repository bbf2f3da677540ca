"""The fold: what a user is after some events."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from eventstore.events import Kind
from projections.fold.state import encode_fields, fold, names_by
from tests.support.deliveries import (
    CREATE,
    DELETE,
    T0,
    T0_MS,
    UPDATE,
    delivery,
    encoded,
    entry,
    envelope,
)
from tests.support.events import read, state_after
from tests.support.parameters import short

LATER, LAST = 1000, 2000


def fields(*bodies: bytes) -> dict[str, Any]:
    """Return the user's fields after these deliveries."""
    return state_after(*bodies).fields


def test_absent_keeps_and_null_clears() -> None:
    """A field that an event does not carry keeps its value; an explicit null clears it."""
    first = delivery(first_name="A", last_name="B", gender="male")
    second = delivery(at_ms=LATER, first_name="", last_name=None)
    assert fields(first, second) == {"first_name": "", "last_name": None, "gender": "male"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"first_name": "snake", "firstName": "camel"}, "snake"),
        ({"firstName": "camel"}, "camel"),
        ({"first_name": None, "firstName": "camel"}, None),
    ],
)
def test_snake_case_goes_first(given: dict[str, Any], expected: str | None) -> None:
    """Of two twins the one in snake_case counts, whatever it says."""
    assert fields(delivery(**given)) == {"first_name": expected}


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ("profilePicUrl", "profile_pic_url"),
        ("hasOldPasswordHash", "has_old_password_hash"),
        ("accountType", "account_type"),
        ("createdAt", "created_at"),
        ("deletedOn", "deleted_on"),
        ("externalId", "external_id"),
        ("rrId", "rr_id"),
        ("isCreated", "is_created"),
        ("__v", "__v"),
        ("consent", "consent"),
    ],
)
def test_documented_fields(camel: str, snake: str) -> None:
    """A documented field stands under its snake_case name, however it came."""
    assert fields(delivery(**{camel: "x"})) == fields(delivery(**{snake: "x"})) == {snake: "x"}


def test_names_in_any_order() -> None:
    """In whatever order names come, known ones, twins and unknown ones, they mean the same."""
    given = {"first_name": "A", "firstName": "B", "lastName": "C", "gender": "male", "dob": "x"}
    expected = {"first_name": "A", "last_name": "C", "gender": "male", "dob": "x"}
    for order in permutations(given):
        user = {name: given[name] for name in order}
        assert fields(delivery(**user)) == expected
        assert fields(delivery(**user, note="n")) == {**expected, "extra": {"note": "n"}}
        assert fields(delivery(**user, note="m")) == {**expected, "extra": {"note": "m"}}


def test_ids_are_not_state() -> None:
    """The ids of user and application are the stream's, not fields."""
    names = ("_id", "id", "user_id", "userId", "application_id", "applicationId")
    assert fields(delivery(**dict.fromkeys(names, "x"))) == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"phone": 8285462419, "country_code": "91"}, {"phone": "8285462419", "country_code": 91}),
        ({"phone": "1", "countryCode": "+91"}, {"phone": "1", "country_code": 91}),
        ({"country_code": 91, "countryCode": 1}, {"country_code": 91}),
        ({"country_code": "+"}, {"country_code": "+"}),
        ({"country_code": ""}, {"country_code": ""}),
        ({"country_code": "IN"}, {"country_code": "IN"}),
        ({"country_code": None}, {"country_code": None}),
        ({"country_code": "9" * 5000}, {"country_code": "9" * 5000}),
        ({"phone": True, "kind": "home"}, {"phone": True, "kind": "home"}),
        ("8285462419", "8285462419"),
        (None, None),
    ],
    ids=[
        *("number", "plus", "twins", "only-plus", "empty", "letters", "null", "endless"),
        *("unknown", "text", "nothing"),
    ],
)
def test_phones(given: Any, expected: Any) -> None:
    """A phone's number is text, its country code a number where it is one; the rest is kept."""
    for name in ("phone_numbers", "phoneNumbers"):
        assert fields(delivery(**{name: [given]})) == {"phone_numbers": [expected]}


def test_contacts_in_another_form() -> None:
    """A list of contacts is replaced as a whole; what is no list is kept as it came."""
    one, two = {"email": "a@b.c", "verified": False}, {"email": "d@e.f"}
    assert fields(delivery(emails=[one]), delivery(at_ms=LATER, emails=[two])) == {"emails": [two]}
    assert fields(delivery(emails={"email": 1})) == {"emails": {"email": 1}}
    assert fields(delivery(emails=[one]), delivery(at_ms=LATER, emails=None)) == {"emails": None}


def test_unknown_fields_are_merged() -> None:
    """Unknown fields are kept below `extra`, each by itself."""
    first = delivery(loyalty={"tier": 1, "points": 2}, vip=True)
    second = delivery(at_ms=LATER, loyalty={"tier": 2}, note=None, extra="x")
    expected = {"loyalty": {"tier": 2}, "vip": True, "note": None, "extra": "x"}
    assert fields(first, second) == {"extra": expected}
    assert fields(first, second, delivery(at_ms=LAST, gender="male"))["extra"] == expected


def test_social_accounts() -> None:
    """`socialAccounts` stands beside the user, and is kept when an event comes without it."""
    with_them = encoded(envelope([entry() | {"socialAccounts": [{"provider": "x"}], "other": 1}]))
    without = delivery(at_ms=LATER, gender="male")
    expected = {"social_accounts": [{"provider": "x"}]}
    assert fields(with_them) == expected
    assert fields(with_them, without) == {**expected, "gender": "male"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("create", {})], "active"),
        ([("create", {"active": True})], "active"),
        ([("create", {"active": False})], "blocked"),
        ([("create", {"active": None})], "active"),
        ([("create", {}), ("update", {"active": False})], "blocked"),
        ([("create", {"active": False}), ("update", {})], "blocked"),
        ([("create", {"active": False}), ("update", {"active": True})], "active"),
        ([("update", {"archive": True})], "active"),
        ([("create", {}), ("delete", {"active": True, "archive": False})], "deleted"),
        ([("delete", {"active": False})], "deleted"),
        ([("delete", {}), ("update", {})], "active"),
        ([("delete", {"active": False}), ("update", {})], "blocked"),
        ([("delete", {}), ("create", {})], "active"),
        ([("delete", {}), ("update", {}), ("delete", {})], "deleted"),
    ],
)
def test_lifecycle(events: list[tuple[str, dict[str, Any]]], expected: str) -> None:
    """The newest event's type alone says whether a user is deleted; `active: false` is blocked."""
    bodies = (delivery("u", kind, n * 1000, **changed) for n, (kind, changed) in enumerate(events))
    assert state_after(*bodies).lifecycle == expected


def test_the_documented_samples() -> None:
    """The samples share their time; by the rank of their kinds they end with a deleted user."""
    user = state_after(DELETE, UPDATE, CREATE)
    assert (user.lifecycle, user.company_id, user.last.kind) == ("deleted", 1, Kind.DELETED)
    phone = {"active": True, "primary": True, "verified": True}
    assert user.fields["phone_numbers"] == [phone | {"phone": "8285462419", "country_code": 91}]
    assert (user.fields["is_created"], user.fields["social_accounts"]) == (True, [])
    assert "extra" not in user.fields
    assert not any(name in user.fields for name in ("firstName", "_id", "applicationId"))


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ({"at_ms": 0, "kind": "delete"}, {"at_ms": 1, "kind": "create"}),
        ({"kind": "create", "__v": 9}, {"kind": "update", "__v": 1}),
        ({"kind": "update", "__v": 9}, {"kind": "delete", "__v": 1}),
        ({"updated_at": "2023-06-13T05:20:31.356Z", "__v": 9}, {"updated_at": 1786649727622}),
        ({"updatedAt": "2023-06-13T05:20:31.356Z"}, {"updated_at": "2023-06-13T05:20:31.357Z"}),
        ({"updated_at": "2023-06-13T05:20:31Z", "__v": 9}, {"updatedAt": 1786649727622}),
        ({"__v": 9}, {"updated_at": "1969-01-01T00:00:00Z"}),
        ({"__v": 2}, {"__v": 10}),
        ({"__v": -1}, {"__v": 0}),
        ({}, {"__v": -5}),
        ({"__v": "7"}, {"__v": 0}),
        ({"__v": 10**30}, {"__v": 0}),
    ],
)
def test_effective_order(lower: dict[str, Any], higher: dict[str, Any]) -> None:
    """Time, kind, the user's `updated_at`, then `__v` decide, whichever event arrives first."""
    low, high = delivery(gender="low", **lower), delivery(gender="high", **higher)
    for arrival in ((low, high), (high, low)):
        assert fields(*arrival)["gender"] == "high"


def test_content_decides_last() -> None:
    """Events alike in all that orders them are ordered by what they say."""
    bodies = [delivery(gender=gender) for gender in ("male", "female", "unisex")]
    assert fields(*bodies) == fields(*reversed(bodies))


def test_an_erased_company_is_remembered() -> None:
    """An event without a company leaves the user with the one known before."""
    body = encoded(envelope([entry(gender="male")], at_ms=LATER) | {"company_id": None})
    assert state_after(delivery(), body).company_id == 1
    assert state_after(body).company_id is None


@pytest.mark.parametrize(
    ("company_id", "expected"),
    [(7, 7), ("7", 7), (-7, None), ("x", None), ([7], None), (10**18, None), (True, None)],
    ids=short,
)
def test_company(company_id: Any, expected: int | None) -> None:
    """The company is a whole number that fits the database, or none."""
    body = encoded(envelope([entry()]) | {"company_id": company_id})
    assert state_after(body).company_id == expected


def test_bytes_do_not_depend_on_key_order() -> None:
    """Equal fields are equal bytes, at every depth."""
    one = {"meta": {"a": 1, "b": [{"x": 1, "y": 2}]}, "gender": None}
    other = {"gender": None, "meta": {"b": [{"y": 2, "x": 1}], "a": 1}}
    assert encode_fields(fields(delivery(**one))) == encode_fields(fields(delivery(**other)))
    assert json.loads(encode_fields(fields(delivery(**one)))) == one


def test_folding_changes_nothing_it_was_given() -> None:
    """A fold returns a new state and leaves the one before as it was."""
    first, second = read(delivery(x=1, emails=[]), delivery(at_ms=LATER, y=2, emails=None))
    before = fold(None, first)
    kept = encode_fields(before.fields)
    assert fold(before, second).fields == {"emails": None, "extra": {"x": 1, "y": 2}}
    assert encode_fields(before.fields) == kept


def test_what_was_accepted_can_be_read_from_a_deeper_stack() -> None:
    """The deepest payload that is accepted can still be read where many calls are in progress."""
    deepest: Any = 0
    for _ in range(90):
        deepest = [deepest]

    def below(calls: int) -> dict[str, Any]:
        return below(calls - 1) if calls else fields(delivery(deep=deepest))

    assert below(500) == {"extra": {"deep": deepest}}


def test_names_at_a_moment() -> None:
    """A name counts from the moment of the first event that carries it, to the millisecond."""
    state = state_after(
        delivery("u", "create", first_name="A", x=1),
        delivery(at_ms=5, gender="x"),
        delivery(at_ms=5, gender="y", y=1),
        delivery(at_ms=9, first_name="B", y=2),
    )

    def names(after_ms: int) -> set[str]:
        until = T0 + timedelta(milliseconds=after_ms)
        return names_by(until, state.fields, state.company_id, state.since)

    first = {"first_name", "extra.x", "company_id"}
    assert state.since == {"gender": T0_MS + 5, "extra.y": T0_MS + 5}
    assert names(-1) == names(0) == names(4) == first
    assert names(5) == names(9) == first | {"gender", "extra.y"}
