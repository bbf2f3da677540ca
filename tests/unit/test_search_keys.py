"""What users are found by, as a support person would type it."""

# ruff: noqa: RUF001 - other widths and scripts are what this is about

from __future__ import annotations

import unicodedata
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.fold import phones
from projections.fold.history import Change, replay
from projections.fold.search_keys import SearchKey, What
from tests.support.deliveries import delivery
from tests.support.events import read

COUNTRY_CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
KEY, OTHER = SearchKey(bytes(32)), SearchKey(b"\1" * 32)


def phone(number: str, country_code: Any = 91) -> dict[str, Any]:
    return {"phone_numbers": [{"phone": number, "country_code": country_code}]}


def email(value: str) -> dict[str, Any]:
    return {"emails": [{"email": "x@y.z"}, {"email": value}]}


def finds(what: What, asked: str, fields: dict[str, Any], key: SearchKey = KEY) -> bool:
    """Say whether somebody who is asked for is found by what is known of them."""
    return bool(key.asked(what, asked) & KEY.terms_of(fields))


# Each number in the forms in which it is kept, and those in which people ask for it.
KEPT = ["9845012345", "+919845012345", "00919845012345", "919845012345", "09845012345"]
KEPT += [
    "98450 12345",
    "+91 98450-12345",
    "(98450) 12345",
    "+91-9845012345",
    "９８４５０１２３４５",
]
ASKED = ["9845012345", "09845012345", "98450 12345", "+919845012345", "+91 98450 12345"]
ASKED += [
    "0091 98450 12345",
    "919845012345",
    "+91 (0)98450 12345",
    "９８４５０１２３４５",
    "९८४५०१२३४५",
]


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("asked", ASKED)
def test_phones(kept: str, asked: str) -> None:
    """A phone is found in whatever form it is kept and asked for, with country code or without."""
    assert finds("phone", asked, phone(kept))
    assert not finds("phone", asked, phone(kept.replace("4", "3").replace("４", "３")))


@pytest.mark.parametrize(
    ("kept", "country_code", "asked"),
    [
        ("5550001", 91, "5550001"),
        ("5550001", 91, "+91 555-0001"),
        ("0555 0001", "+91", "5550001"),
        ("0236618300", 39, "+39 02 3661 8300"),
        ("0236618300", 39, "02 3661 8300"),
        ("8 916 123-45-67", 7, "+7 916 123 45 67"),
        ("9161234567", 7, "9161234567"),
        ("+447911123456", 91, "+44 7911 123456"),
        ("07911123456", 44, "+447911123456"),
        ("6502530000", 1, "+1 (650) 253-0000"),
        ("1234", None, "1234"),
        ("1234", 999, "1234"),
        ("0001234", True, "1234"),
        ("9" * 100, 91, "9" * 100),
        ("no 1 number 2", 91, "12"),
    ],
)
def test_other_phones(kept: str, country_code: Any, asked: str) -> None:
    """Countries have their own prefixes; what is no number is found by its digits."""
    assert finds("phone", asked, phone(kept, country_code))


SPELLINGS = [
    ("josé@example.com", "JOSÉ@EXAMPLE.COM"),
    ("josé@example.com", unicodedata.normalize("NFD", "josé@example.com")),
    (unicodedata.normalize("NFD", "josé@example.com"), "josé@example.com"),
    ("asha@example.com", " Asha@Example.com "),
    ("asha@example.com", "ａｓｈａ@example.com"),
    ("ＡＳＨＡ@example.com", "asha@example.com"),
    ("straße@example.com", "STRASSE@example.com"),
    ("ﬁona@example.com", "fiona@example.com"),
    ("İ@example.com", "i̇@example.com"),
    ("ǆ@example.com", "Ǆ@example.com"),
    ("a+b@example.com", "A+B@example.com"),
    ("x" * 5_000 + "@b", "x" * 5_000 + "@B"),
    ("a\0@b", "A\0@b"),
    ("\ud800@b", "\ud800@B"),
    ("आशा@example.com", "आशा@example.com"),
]


@pytest.mark.parametrize(("kept", "asked"), SPELLINGS, ids=map(str, range(len(SPELLINGS))))
def test_spellings(kept: str, asked: str) -> None:
    """E-mails, usernames and words of names are found in any case, composed or not, and width."""
    assert finds("email", asked, email(kept))
    assert finds("username", asked, {"username": kept})
    for field in ("first_name", "last_name"):
        assert finds("name", asked, {field: f"Some {kept}  one"})


@pytest.mark.timeout(10)
@pytest.mark.parametrize("what", ["email", "phone", "username", "name"])
def test_a_megabyte_of_combining_signs(what: What) -> None:
    """One form for all spellings would cost minutes; it is found as it is spelled, in any case."""
    signs = "\u0300\u0316" * 250_000
    fields = {"username": f"A{signs}", "first_name": f"A{signs}", **email(f"A{signs}")}
    assert finds(
        what,
        f"5550001a{signs}" if what == "phone" else f"a{signs}",
        fields | phone(f"5550001{signs}"),
    )


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("email", "b@b.c"),
        ("email", "asha"),
        ("username", "a@b.c"),
        ("username", "Rao"),
        ("name", "asha rao"),
        ("name", "ash"),
        ("phone", "550001"),
        ("phone", "91"),
    ],
)
def test_not_found(what: What, asked: str) -> None:
    """Only whole values match, each as what it is."""
    fields = {"username": "asha", "first_name": "Asha", "last_name": "Rao", **email("a@b.c")}
    assert not finds(what, asked, fields | phone("5550001"))


def test_another_key_finds_nobody() -> None:
    """Who has not the log's key can't make the terms of all phones there are."""
    assert finds("phone", "5550001", phone("5550001"))
    assert not finds("phone", "5550001", phone("5550001"), OTHER)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"emails": None, "phone_numbers": {"phone": "1"}, "username": 5, "first_name": ["x"]},
        {"emails": ["a@b.c", {"email": None}, {}], "phone_numbers": [{"phone": 5}, {"phone": "-"}]},
        {"emails": [{"email": " "}], "username": "", "last_name": "  "},
    ],
)
def test_nothing_to_find(fields: dict[str, Any]) -> None:
    """What is no such value, or has nothing to look for, is found by nothing."""
    assert KEY.terms_of(fields) == set()


@given(st.text(), st.sampled_from(["email", "phone", "username", "name"]))
def test_whatever_is_asked(text: str, what: What) -> None:
    """Any text is looked for, in few terms, or there is nothing to look for."""
    assert len(KEY.asked(what, text)) <= 1


def left(*steps: dict[str, Any]) -> set[str]:
    """Return which values a user was found by and ceased to be, of those asked for in the end."""
    bodies = [delivery("u", at_ms=n, event_id=n, **fields) for n, fields in enumerate(steps)]
    _, entries = replay(read(*bodies))
    terms = {t for e in entries for change in e.changes for t in KEY.terms_left(change)}
    asked: list[tuple[What, str]] = [
        *(("email", value) for value in ("a@b.c", "d@e.f")),
        *(("phone", value) for value in ("5550001", "5550002", "+915550001", "+445550001")),
        *(("username", value) for value in ("asha", "bela")),
        *(("name", value) for value in ("rao", "lal")),
    ]
    return {value for what, value in asked if KEY.asked(what, value) & terms}


@given(
    # After two zeros, which are a plus, come all numbers of all countries.
    st.from_regex(r"(?!00)[0-9]{1,18}", fullmatch=True),
    st.sampled_from(COUNTRY_CODES),
)
def test_digits(digits: str, code: int) -> None:
    """Whether digits need to be parsed or not, they are found by what parsing makes of them."""
    assert phones.forms(digits, code, {}) == parsed(digits, code)


@pytest.mark.parametrize("code", COUNTRY_CODES)
def test_prefixes(code: int) -> None:
    """So are a country's numbers with all that may stand before them."""
    region = phonenumbers.region_code_for_country_code(code)
    known = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    before = {"", "0", "1", "8", str(code)}
    for kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE):
        example = phonenumbers.example_number_for_type(region, kind)
        if known and example:
            before |= {known.national_prefix or "", known.preferred_international_prefix or ""}
            national = phonenumbers.national_significant_number(example)
            for prefix in before:
                digits = f"{prefix}{national}"
                if digits.isdecimal() and not digits.startswith("00"):
                    assert phones.forms(digits, code, {}) == parsed(digits, code)


def parsed(digits: str, code: int) -> set[str]:
    """Return what the library makes of digits in the country of a code."""
    try:
        number = phonenumbers.parse(digits, phonenumbers.region_code_for_country_code(code))
    except phonenumbers.NumberParseException:
        national = digits.lstrip("0")
        return {national, f"{code}{national}"} if national else set()
    national = phonenumbers.national_significant_number(number)
    return {national.lstrip("0"), f"{number.country_code}{national}"} - {""}


def test_former_values() -> None:
    """What a change takes away is a former value, what it leaves is not."""
    assert left({"username": "asha"}, {"username": "Asha"}) == set()
    assert left({"username": "asha"}, {"username": "bela"}) == {"asha"}
    assert left({"username": "asha"}, {"username": None}) == {"asha"}
    assert left({"last_name": "Rao Lal"}, {"last_name": "Lal"}) == {"rao"}
    assert left({"emails": [{"email": "a@b.c"}]}, {"emails": [{"email": "d@e.f"}]}) == {"a@b.c"}
    verified = [{"email": "a@b.c", "verified": True}]
    assert left({"emails": [{"email": "a@b.c", "verified": False}]}, {"emails": verified}) == set()
    assert left(phone("5550001"), phone("5550002")) == {"5550001", "+915550001"}
    assert left(phone("5550001"), phone("5550001", 44)) == {"+915550001"}
    assert left({"emails": ["odd"]}, {"emails": [{"email": "a@b.c"}]}) == set()
    assert KEY.terms_left(Change("gender", "m", "f")) == set()
