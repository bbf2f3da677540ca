"""What happens to a delivery that was signed: into the log, into quarantine, or ignored.

Whatever comes back from `deliver` is durable. Nothing that was signed is ever lost or refused
for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from api.payloads import Decoded, decode
from eventstore.events import Appended, Outcome

if TYPE_CHECKING:
    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine

_log = structlog.stdlib.get_logger("userlog.ingest")


class Receipt(msgspec.Struct):
    """The answer to a delivery; `positions` has one for each event that is in the log."""

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0
    quarantined: int = 0
    positions: list[str] = []


class Ingest:
    """Takes deliveries whose signature has been verified."""

    def __init__(self, log: EventLog, quarantine: Quarantine) -> None:
        """Everything goes to one of the two."""
        self._log = log
        self._quarantine = quarantine

    async def deliver(self, body: bytes) -> Receipt:
        """Read a delivery and keep what is in it; UnavailableError means: send it again."""
        decoded = decode(body)
        if not decoded.events and not decoded.rejected:
            _log.debug("delivery ignored")
            return Receipt(ignored=1)
        appended = await self._log.append(decoded.events) if decoded.events else []
        receipt = _receipt(appended)
        conflicts = sum(1 for one in appended if one.outcome is Outcome.CONFLICT)
        receipt.quarantined = len(decoded.rejected) + conflicts
        if receipt.quarantined:
            await self._set_aside(body, decoded, appended)
        return receipt

    async def _set_aside(self, body: bytes, decoded: Decoded, appended: list[Appended]) -> None:
        if decoded.rejected:
            reason, detail = decoded.rejected[0].reason, decoded.rejected[0].detail
        else:
            first = next(one for one in appended if one.outcome is Outcome.CONFLICT)
            reason = "same-id-other-content"
            detail = f"position {first.position} has the same event id and other content"
        key = await self._quarantine.put(body, reason, detail)
        _log.warning("delivery quarantined", quarantine_id=str(key), reason=reason, detail=detail)


def _receipt(appended: list[Appended]) -> Receipt:
    def count(outcome: Outcome) -> int:
        return sum(1 for one in appended if one.outcome is outcome)

    positions = [str(one.position) for one in appended if one.outcome is not Outcome.CONFLICT]
    return Receipt(count(Outcome.APPENDED), count(Outcome.DUPLICATE), positions=positions)
