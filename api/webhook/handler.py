"""The webhook: a delivery's body read, its signature verified, its events taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from api.web import timeouts
from api.web.budgets import take
from api.web.problems import Problem, too_large
from api.webhook.decode import is_ping
from api.webhook.ingest import IGNORED
from api.webhook.verify import HEADER, Signing

if TYPE_CHECKING:
    from aiohttp import web

    from api.config.secret_files import Secrets
    from api.observe.metrics import Metrics
    from api.web.budgets import Budget
    from api.web.params import Parameters
    from api.webhook.arriving import Arriving
    from api.webhook.ingest import Ingest, Receipt

_SIGNATURE_HELP = (
    f"the header {HEADER} must be the lower-case hex HMAC-SHA256 of the raw body"
    " under a secret in USERLOG_WEBHOOK_SECRETS"
)
# What a sender may bring who shows no signature: a ping is far smaller.
_UNSIGNED_BYTES_MAX = 4096
_UNSIGNED_S = 1.0


class Webhook:
    """Where the platform posts its deliveries."""

    def __init__(
        self,
        ingest: Ingest,
        secrets: Secrets,
        metrics: Metrics,
        arriving: Arriving,
        budget: Budget,
    ) -> None:
        """All webhook secrets are accepted, so that they can be rotated."""
        self._ingest = ingest
        self._secrets = secrets
        self._metrics = metrics
        self._arriving = arriving
        self._budget = budget

    async def webhook(self, request: web.Request, _given: Parameters) -> Receipt:
        """Take a delivery; 200 means that it is durable, or ignored, or in quarantine.

        Nothing is done for a stranger: only a body as small as a ping's is read before its
        signature holds.
        """
        _check_head(request)
        signing = Signing(self._secrets.webhook_secrets, request.headers.get(HEADER))
        if signing.may_hold:
            body = await self._arriving.read(request, request.client_max_size, signing.hear)
        else:
            body = await self._unsigned_body(request, signing)
        if not signing.holds():
            if len(body) <= _UNSIGNED_BYTES_MAX and is_ping(body):
                return IGNORED
            raise _unsigned()
        take(request, self._budget)
        receipt = await self._ingest.deliver(body, request.headers)
        outcome = (
            "quarantined" if receipt.quarantined else "taken" if receipt.positions else "ignored"
        )
        self._metrics.delivery(outcome, receipt.accepted, receipt.duplicates)
        return receipt

    async def _unsigned_body(self, request: web.Request, signing: Signing) -> bytes:
        if (request.content_length or 0) > _UNSIGNED_BYTES_MAX:
            raise _unsigned()
        timeouts.shorten(request, _UNSIGNED_S)
        try:
            return await self._arriving.read(request, _UNSIGNED_BYTES_MAX, signing.hear)
        except Problem as problem:
            raise _unsigned() if problem.document.status == _TOO_LARGE else problem from None


_TOO_LARGE = 413


def _check_head(request: web.Request) -> None:
    """Refuse what is not taken whatever the body is."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Problem(
            415,
            "Encoding not understood",
            "send the body as it was signed, without a Content-Encoding",
            headers={hdrs.ACCEPT_ENCODING: "identity"},
        )
    if (request.content_length or 0) > request.client_max_size:
        raise too_large()


def _unsigned() -> Problem:
    return Problem(401, "Signature missing or wrong", _SIGNATURE_HELP)
