"""What a user can be found by. Pure.

A term is a hash of the application, what it is, and the value as people mean it: an e-mail or a
username without case and outer blanks, a phone as its digits, once as it is and once with its
country code. A hash has one size, whatever a phone holds.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from projections.deliveries.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.fold.events import Fields

What: TypeAlias = Literal["email", "phone", "username"]
FIELDS = frozenset(("emails", "phone_numbers", "username"))
_TERM_BYTES = 16


def term(application_id: str, what: What, value: str) -> bytes | None:
    """Return what users with this e-mail, phone or username are found by; None if it is empty."""
    plain = _digits(value) if what == "phone" else value.strip().casefold()
    if not plain:
        return None
    text = f"{what}\0{application_id}\0{plain}"
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_TERM_BYTES).digest()


def terms_of(application_id: str, fields: Fields) -> set[bytes]:
    """Return everything that a user can be found by."""
    found = {term(application_id, what, value) for what, value in _values(fields)}
    return {one for one in found if one is not None}


def _digits(text: str) -> str:
    """Return the digits of a phone as one may write it, without leading zeros."""
    return "".join(sign for sign in text if sign.isdecimal()).lstrip("0")


def _values(fields: Fields) -> Iterator[tuple[What, str]]:
    if isinstance(fields.get("username"), str):
        yield "username", fields["username"]
    for contact in _contacts(fields.get("emails")):
        if isinstance(contact.get("email"), str):
            yield "email", contact["email"]
    for contact in _contacts(fields.get("phone_numbers")):
        phone = contact.get("phone")
        if isinstance(phone, str) and (digits := _digits(phone)):
            yield "phone", digits
            yield "phone", f"{contact.get('country_code')}{digits}"


def _contacts(value: Any) -> Iterator[Fields]:  # noqa: ANN401 - any JSON
    if is_list(value):
        yield from (one for one in value if is_object(one))
