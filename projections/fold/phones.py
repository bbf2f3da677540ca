"""Phone numbers, as they are kept and as people type them. Pure.

With Google's library, which knows each country's prefixes (PyPI: phonenumberslite).
"""

from __future__ import annotations

import unicodedata
from typing import TypeAlias

import phonenumbers

# Phones with their country codes that were read already.
Known: TypeAlias = dict[tuple[str, int | None], set[str]]

_SIGNS_MAX = 64
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
    digits = _digits(text)
    if not digits:
        return set()
    if number := _parse(text, code):
        return _both(number)
    return {digits, f"{code}{digits}" if code else digits}


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
    text = (text if len(text) > _SIGNS_MAX else unicodedata.normalize("NFKC", text)).strip()
    return f"+{text[2:]}" if text.startswith("00") else text


def _digits(text: str) -> str:
    """Return the digits, of whatever script, without leading zeros."""
    return "".join(str(unicodedata.decimal(one)) for one in text if one.isdecimal()).lstrip("0")


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
    national = phonenumbers.national_significant_number(number).lstrip("0")
    return {national, _international(number)} - {""}
