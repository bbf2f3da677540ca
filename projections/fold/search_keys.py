"""What a user can be found by. Pure.

A term is a hash, under a key of the log's own, of what it is and the value as people mean it: an
e-mail, a username or a word of the name in one normal form, a phone with its country code and
without it. Who has not the key can't make terms, and so can't try all phones there are.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from asyncpg.pgproto.pgproto import UUID

from projections.deliveries.values import is_list, is_object
from projections.fold import phones

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from projections.fold.events import Fields
    from projections.fold.history import Change

What: TypeAlias = Literal["email", "phone", "username", "name"]
_WHAT: dict[str, What] = {
    "emails": "email",
    "phone_numbers": "phone",
    "username": "username",
    "first_name": "name",
    "last_name": "name",
}
FIELDS = frozenset(_WHAT)
_TERM_BYTES = 16
_WORDS_MAX = 16
# No e-mail is longer. One form for all spellings costs the square of a text's length, if it is made
# of combining signs; a longer text is found as it is spelled, but in any case.
_SPELLED_MAX = 320


class SearchKey:
    """The key of a log's terms."""

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        """Take the 32 secret bytes."""
        self._keyed = hashlib.blake2b(key=secret, person=b"term", digest_size=_TERM_BYTES)

    def term(self, what: What, plain: str) -> uuid.UUID:
        """Return the term of a value in its normal form."""
        digest = self._keyed.copy()
        digest.update(f"{what}\0{plain}".encode(errors="surrogatepass"))
        return UUID(digest.digest())

    def asked(self, what: What, value: str) -> set[uuid.UUID]:
        """Return the terms one of which users with this value have; none if it is empty."""
        if what == "phone":
            return {self.term(what, plain) for plain in phones.asked(value)}
        plain = _normal(value)
        return {self.term(what, plain)} if plain else set()

    def terms_of(self, fields: Fields, known: phones.Known | None = None) -> set[uuid.UUID]:
        """Return everything that a user can be found by now."""
        known = {} if known is None else known
        return {
            self.term(what, plain)
            for name, what in _WHAT.items()
            if name in fields
            for plain in _READ[name](fields[name], known)
        }

    def terms_left(self, change: Change, known: phones.Known | None = None) -> set[uuid.UUID]:
        """Return what a user was found by before a change, and is not any more by this field."""
        known = {} if known is None else known
        old, new = change.old, change.new
        if change.field not in FIELDS or old is None:
            return set()
        if change.key is not None:
            old, new = [_whole(change.key, old, new)], new and [_whole(change.key, new, old)]
        what, read = _WHAT[change.field], _READ[change.field]
        left = read(old, known)
        if new is not None:
            left -= read(new, known)
        return {self.term(what, plain) for plain in left}


def _whole(key: str, contact: Any, other: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a contact of a change; if it stays, the change has no more of it than what differs."""
    if contact is None or other is None:
        return contact
    return {"email": key, "phone": key, **contact}


def _normal(text: str) -> str:
    """Return a text in one form of all that are spelled alike: in any case, composed or not."""
    if text.isascii():
        return text.lower().strip()
    if len(text) > _SPELLED_MAX:
        return text.casefold().strip()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded).strip()


def _emails(value: Any, _: phones.Known) -> set[str]:  # noqa: ANN401 - any JSON
    found: set[str] = set()
    for contact in _contacts(value):
        if isinstance(email := contact.get("email"), str):
            found.add(_normal(email))
    return found - _NOTHING


def _phones(value: Any, known: phones.Known) -> set[str]:  # noqa: ANN401 - any JSON
    found: set[str] = set()
    for contact in _contacts(value):
        if isinstance(phone := contact.get("phone"), str):
            found |= phones.forms(phone, contact.get("country_code"), known)
    return found


def _whole_text(value: Any, _: phones.Known) -> set[str]:  # noqa: ANN401 - any JSON
    return {_normal(value)} - _NOTHING if isinstance(value, str) else set()


def _words(value: Any, _: phones.Known) -> set[str]:  # noqa: ANN401 - any JSON
    return set(_normal(value).split()[:_WORDS_MAX]) if isinstance(value, str) else set()


def _contacts(value: Any) -> list[Fields]:  # noqa: ANN401 - any JSON
    return [one for one in value if is_object(one)] if is_list(value) else []


_NOTHING = {""}
# What a field's value is found by, in normal form.
_READ: dict[str, Callable[[Any, phones.Known], set[str]]] = {
    "emails": _emails,
    "phone_numbers": _phones,
    "username": _whole_text,
    "first_name": _words,
    "last_name": _words,
}
