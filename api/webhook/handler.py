"""The webhook: a delivery's body read, its signature verified, its events taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.web.problems import Problem
from api.webhook.decode import is_ping
from api.webhook.ingest import IGNORED
from api.webhook.verify import HEADER, verify

if TYPE_CHECKING:
    from aiohttp import web

    from api.config.secret_files import Secrets
    from api.observe.metrics import Metrics
    from api.web.inflight import Inflight
    from api.web.params import Parameters
    from api.webhook.ingest import Ingest, Receipt

_SIGNATURE_HELP = (
    f"the header {HEADER} must be the lower-case hex HMAC-SHA256 of the raw body"
    " under a secret in USERLOG_WEBHOOK_SECRETS"
)


class Webhook:
    """Where the platform posts its deliveries."""

    def __init__(
        self, ingest: Ingest, secrets: Secrets, metrics: Metrics, inflight: Inflight
    ) -> None:
        """All webhook secrets are accepted, so that they can be rotated."""
        self._ingest = ingest
        self._secrets = secrets
        self._metrics = metrics
        self._inflight = inflight

    async def webhook(self, request: web.Request, _given: Parameters) -> Receipt:
        """Take a delivery; 200 means that it is durable, or ignored, or in quarantine."""
        body = await self._inflight.read(request)
        if not verify(body, request.headers.get(HEADER), self._secrets.webhook_secrets):
            if is_ping(body):
                return IGNORED
            raise Problem(401, "Signature missing or wrong", _SIGNATURE_HELP)
        receipt = await self._ingest.deliver(body, request.headers)
        outcome = (
            "quarantined" if receipt.quarantined else "ignored" if receipt.ignored else "taken"
        )
        self._metrics.delivery(outcome, receipt.accepted, receipt.duplicates)
        return receipt
