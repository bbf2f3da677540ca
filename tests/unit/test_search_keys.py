"""What users are found by."""

from __future__ import annotations

from typing import Any

import pytest

from projections.fold.search_keys import What, term, terms_of

APP = "a"


@pytest.mark.parametrize(
    ("what", "asked", "fields"),
    [
        ("email", "a@b.c", {"emails": [{"email": "x@y.z"}, {"email": "A@B.c "}]}),
        ("email", " A@b.C", {"emails": [{"email": "a@b.c"}]}),
        ("username", "asha_1", {"username": "Asha_1"}),
        ("phone", "5550001", {"phone_numbers": [{"phone": "5550001", "country_code": 91}]}),
        ("phone", "+91 555-0001", {"phone_numbers": [{"phone": "5550001", "country_code": 91}]}),
        ("phone", "0091 5550001", {"phone_numbers": [{"phone": "5550001", "country_code": 91}]}),
        ("phone", "05550001", {"phone_numbers": [{"phone": "5550001"}]}),
        ("phone", "5550001", {"phone_numbers": [{"phone": "0555 0001", "country_code": "+91"}]}),
        ("phone", "+915550001", {"phone_numbers": [{"phone": "0555 0001", "country_code": "+91"}]}),
        ("email", "x" * 5_000 + "@b", {"emails": [{"email": "x" * 5_000 + "@b"}]}),
        ("email", "a\0@b", {"emails": [{"email": "a\0@b"}]}),
    ],
    ids=[f"{n}" for n in range(11)],
)
def test_found(what: What, asked: str, fields: dict[str, Any]) -> None:
    """Values match as people mean them, whatever their case and form."""
    assert term(APP, what, asked) in terms_of(APP, fields)
    assert term("b", what, asked) not in terms_of(APP, fields)


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("email", "b@b.c"),
        ("email", "asha"),
        ("username", "a@b.c"),
        ("phone", "550001"),
        ("phone", "91"),
    ],
)
def test_not_found(what: What, asked: str) -> None:
    """Only whole values match, each as what it is."""
    fields = {
        "username": "asha",
        "emails": [{"email": "a@b.c"}],
        "phone_numbers": [{"phone": "5550001", "country_code": 91}],
    }
    assert term(APP, what, asked) not in terms_of(APP, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"username": None, "emails": None, "phone_numbers": None},
        {"username": 5, "emails": {"email": "x"}, "phone_numbers": "1"},
        {"username": " ", "emails": [1, {"email": 2}, {}], "phone_numbers": [{"phone": "none"}]},
        {"phone_numbers": [{"phone": "", "country_code": 91}, {"phone": None}]},
    ],
    ids=[f"{n}" for n in range(5)],
)
def test_nothing_to_find(fields: dict[str, Any]) -> None:
    """What is empty or of another shape is found by nothing, and breaks nothing."""
    assert terms_of(APP, fields) == set()
    assert term(APP, "phone", "no digits") is None
