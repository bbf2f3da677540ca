"""Signatures of the platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.webhook.verify import Signing, sign

if TYPE_CHECKING:
    from collections.abc import Sequence


def verify(body: bytes, signature: str | None, secrets: Sequence[str]) -> bool:
    """Say whether a body that came in one part is signed, and the same when it came in three."""
    whole, parts = Signing(secrets, signature), Signing(secrets, signature)
    whole.hear(body)
    for part in (body[:1], body[1:3], body[3:]):
        parts.hear(part)
    assert whole.holds() == parts.holds()
    return whole.holds()


def test_any_of_two_secrets_is_accepted() -> None:
    """While a secret is rotated, deliveries signed with either are good."""
    body = b'{"a":1}'
    assert verify(body, sign(body, "old"), ["new", "old"])
    assert verify(body, sign(body, "new"), ["new", "old"])
    assert not verify(body, sign(body, "other"), ["new", "old"])


def test_one_changed_byte_is_refused() -> None:
    """The signature covers every byte of the body, and every one of its own."""
    body = b'{"a":1}'
    good = sign(body, "s")
    assert not verify(body + b" ", good, ["s"])
    assert not verify(body, good[:-1] + ("0" if good[-1] != "0" else "1"), ["s"])
    assert not verify(body, None, ["s"])
    assert not verify(body, "\udcff", ["s"])


def test_matches_the_known_digest() -> None:
    """HMAC-SHA256 in lower-case hex, by a vector of RFC 4231 (test case 2)."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign(b"what do ya want for nothing?", "Jefe") == expected
