"""Is this body from someone who knows the secret? Pure.

The platform signs the raw body with HMAC-SHA256 and sends the lower-case hex digest, without a
prefix, in the header `x-fp-signature` (its SDKs for Python and Java do the same).
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = "x-fp-signature"
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


def sign(body: bytes, secret: str) -> str:
    """Return the header's value for a body."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def is_signature(given: str | None) -> bool:
    """Say whether this can be a signature at all, of whatever body."""
    return given is not None and _SIGNATURE.fullmatch(given) is not None


class Signing:
    """Signs a body with each of the secrets while it arrives, part by part."""

    __slots__ = ("_first", "_macs", "_secrets")

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._first = b""
        self._macs: list[hmac.HMAC] | None = None

    def hear(self, part: bytes) -> None:
        """Take the next part. The first waits for the second: alone it is signed more cheaply."""
        if not self._first:
            self._first = part
            return
        if self._macs is None:
            self._macs = [hmac.new(one.encode(), self._first, "sha256") for one in self._secrets]
        for mac in self._macs:
            mac.update(part)

    def holds(self, signature: str | None) -> bool:
        """Say whether one of the secrets signed exactly what was heard, in constant time."""
        if signature is None:
            return False
        if self._macs is None:
            made = [sign(self._first, secret) for secret in self._secrets]
        else:
            made = [mac.hexdigest() for mac in self._macs]
        given = signature.encode(errors="replace")
        # Every secret is tried, so that the time taken does not tell which one fits.
        return any([hmac.compare_digest(one.encode(), given) for one in made])  # noqa: C419


def verify(body: bytes, signature: str | None, secrets: Sequence[str]) -> bool:
    """Say whether one of the secrets signed exactly these bytes, in constant time."""
    signing = Signing(secrets)
    signing.hear(body)
    return signing.holds(signature)
