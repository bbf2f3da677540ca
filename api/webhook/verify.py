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


class Signing:
    """Signs a body with each of the secrets while it arrives, part by part.

    `may_hold` says whether what was given can be a signature at all, of whatever body.
    """

    __slots__ = ("_first", "_given", "_macs", "_secrets", "may_hold")

    def __init__(self, secrets: Sequence[str], given: str | None) -> None:
        """`given` is the header's value, if it was there."""
        self._secrets = secrets
        self._given = given or ""
        self.may_hold = _SIGNATURE.fullmatch(self._given) is not None
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

    def holds(self) -> bool:
        """Say whether one of the secrets signed exactly what was heard, in constant time."""
        if not self.may_hold:
            return False
        if self._macs is None:
            made = [sign(self._first, secret) for secret in self._secrets]
        else:
            made = [mac.hexdigest() for mac in self._macs]
        # Every secret is tried, so that the time taken does not tell which one fits.
        return any([hmac.compare_digest(one, self._given) for one in made])  # noqa: C419
