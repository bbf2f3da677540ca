"""What a user can be found by. Pure.

A term is a hash, under a key of the log's own, of what it is and the value as people mean it: an
e-mail, a username or a word of the name in one normal form, a phone with its country code and
without it. Who has not the key can't make terms, and so can't try all phones there are.
"""

from __future__ import annotations

import hashlib
import unicodedata
import uuid
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from projections.deliveries.values import is_list, is_object
from projections.fold import phones

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Take the 32 secret bytes."""
        self._secret = secret

    def term(self, what: What, plain: str) -> uuid.UUID:
        """Return the term of a value in its normal form."""
        text = f"{what}\0{plain}".encode(errors="surrogatepass")
        digest = hashlib.blake2b(text, key=self._secret, person=b"term", digest_size=_TERM_BYTES)
        return uuid.UUID(bytes=digest.digest())

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
            for name in FIELDS
            if name in fields
            for what, plain in _values(name, fields[name], known)
        }

    def terms_left(self, change: Change, known: phones.Known | None = None) -> set[uuid.UUID]:
        """Return what a user was found by before a change, and is not any more by this field."""
        known = {} if known is None else known
        if change.field not in FIELDS:
            return set()
        old, new = change.old, change.new
        if change.key is not None:
            old, new = [_whole(change.key, old, new)], [_whole(change.key, new, old)]
        left = set(_values(change.field, old, known)) - set(_values(change.field, new, known))
        return {self.term(what, plain) for what, plain in left}


def _whole(key: str, contact: Any, other: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a contact of a change; if it stays, the change has no more of it than what differs."""
    if contact is None or other is None:
        return contact
    return {"email": key, "phone": key, **contact}


def _normal(text: str) -> str:
    """Return a text in one form of all that are spelled alike: in any case, composed or not."""
    if len(text) > _SPELLED_MAX:
        return text.casefold().strip()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded).strip()


def _values(
    field: str,
    value: Any,  # noqa: ANN401 - any JSON
    known: phones.Known,
) -> Iterator[tuple[What, str]]:
    """Return what a field's value is found by, in normal form."""
    what = _WHAT[field]
    for plain in _plain(field, value, known):
        if plain:
            yield what, plain


def _plain(
    field: str,
    value: Any,  # noqa: ANN401 - any JSON
    known: phones.Known,
) -> Iterator[str]:
    match field:
        case "emails":
            yield from map(_normal, _texts(value, "email"))
        case "phone_numbers":
            for contact in _contacts(value):
                if isinstance(phone := contact.get("phone"), str):
                    yield from phones.forms(phone, contact.get("country_code"), known)
        case "username":
            yield from map(_normal, _strings(value))
        case _:
            for text in _strings(value):
                yield from _normal(text).split()[:_WORDS_MAX]


def _texts(value: Any, name: str) -> Iterator[str]:  # noqa: ANN401 - any JSON
    for contact in _contacts(value):
        yield from _strings(contact.get(name))


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value


def _contacts(value: Any) -> Iterator[Fields]:  # noqa: ANN401 - any JSON
    if is_list(value):
        yield from (one for one in value if is_object(one))
