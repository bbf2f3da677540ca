"""Is this body from someone who knows the secret? Pure.

The platform signs the raw body with HMAC-SHA256 and sends the lower-case hex digest, without a
prefix, in the header `x-fp-signature` (its SDKs for Python and Java do the same).
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = "x-fp-signature"


def sign(body: bytes, secret: str) -> str:
    """Return the header's value for a body."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def verify(body: bytes, signature: str | None, secrets: Sequence[str]) -> bool:
    """Say whether one of the secrets signed exactly these bytes, in constant time."""
    if signature is None:
        return False
    given = signature.encode(errors="replace")
    # Every secret is tried, so that the time taken does not tell which one fits.
    return any([hmac.compare_digest(sign(body, secret).encode(), given) for secret in secrets])  # noqa: C419
