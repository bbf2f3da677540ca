"""Phone numbers, as they are kept and as people type them. Pure.

With Google's library, which knows each country's prefixes (PyPI: phonenumberslite).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TypeAlias

import phonenumbers

# Phones with their country codes that were read already.
Known: TypeAlias = dict[tuple[str, int | None], set[str]]

_SIGNS_MAX = 64
# National numbers, without and with the area (ITU-T E.164).
_DIGITS_MIN, _DIGITS_MAX = 4, 14
_COUNTRIES_MAX = 500
_KNOWN_MAX = 5_000


def forms(phone: str, country_code: object, known: Known) -> set[str]:
    """Return the digits that a phone is found by: with its country code, and without it.

    What is found is kept in `known`: in a user's history the same phones come again and again.
    """
    code = country_code if type(country_code) is int and country_code > 0 else None
    found = known.get((phone, code))
    if found is None:
        if len(known) >= _KNOWN_MAX:
            known.clear()
        found = known[phone, code] = _forms(phone, code)
    return found


def _forms(phone: str, code: int | None) -> set[str]:
    text = _plain(phone)
    if code and _is_national(text, code):
        return {text, f"{code}{text}"}
    if number := _parse(text, code):
        return _both(number)
    digits = _digits(text)
    return {digits, f"{code}{digits}" if code else digits} if digits else set()


def asked(text: str) -> set[str]:
    """Return the digits one of which a phone that was asked for is found by."""
    text = _plain(text)
    digits = _digits(text)
    if not digits:
        return set()
    number = _parse(text, None)
    return {_international(number)} if number else {digits}


def _plain(text: str) -> str:
    """Return a text in the characters of a keyboard: full-width digits and signs are such too.

    A text that is too long to be a phone stays as it is: this would cost the square of its length.
    """
    if not text.isascii() and len(text) <= _SIGNS_MAX:
        text = unicodedata.normalize("NFKC", text)
    text = text.strip()
    return f"+{text[2:]}" if text.startswith("00") else text


def _digits(text: str) -> str:
    """Return the digits, of whatever script, without leading zeros."""
    return "".join([str(unicodedata.decimal(one)) for one in text if one.isdecimal()]).lstrip("0")


def _is_national(text: str, code: int) -> bool:
    """Say whether a number is digits alone, without any prefix: then it need not be parsed.

    Parsing takes as long as reading the whole event; `_both` of what it gives is the same.
    """
    if not (_DIGITS_MIN <= len(text) <= _DIGITS_MAX and text.isascii() and text.isdecimal()):
        return False
    prefixes = _prefixes(code)
    return prefixes is not None and not prefixes.match(text)


@lru_cache(_COUNTRIES_MAX)
def _prefixes(code: int) -> re.Pattern[str] | None:
    """Return what numbers of a country may begin with that is no part of them."""
    region = phonenumbers.region_code_for_country_code(code)
    known = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    if known is None:
        return None
    prefixes = (known.international_prefix, known.national_prefix_for_parsing, str(code), "0")
    return re.compile("|".join(f"(?:{one})" for one in prefixes if one))


def _parse(text: str, code: int | None) -> phonenumbers.PhoneNumber | None:
    """Read a number with a plus, or in the country of a code; None if that is impossible."""
    if len(text) > _SIGNS_MAX or not (code or text.startswith("+")):
        return None
    region = phonenumbers.region_code_for_country_code(code) if code else None
    try:
        return phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None


def _international(number: phonenumbers.PhoneNumber) -> str:
    return f"{number.country_code}{phonenumbers.national_significant_number(number)}"


def _both(number: phonenumbers.PhoneNumber) -> set[str]:
    national = phonenumbers.national_significant_number(number)
    return {national.lstrip("0"), f"{number.country_code}{national}"} - {""}
