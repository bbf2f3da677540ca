"""What happens to a delivery that was signed: into the log, into quarantine, or ignored.

Whatever comes back from `deliver` is durable. Nothing that was signed is ever lost or refused
for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from api.webhook.decode import Decoded, Limits, decode_usual, decoding
from eventstore.events import Appended, Outcome
from projections.deliveries.values import UnreadableError
from projections.fold.timeslice import Timeslices
from projections.query.formats import PositionText

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine

# Kept with a delivery in quarantine, to find out who sent it.
_KEPT_HEADERS = ("content-type", "user-agent", "x-fp-event-id")

_log = structlog.stdlib.get_logger("userlog.ingest")


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a delivery; `positions` has one for each event that is in the log."""

    accepted: int
    duplicates: int
    ignored: int
    quarantined: int
    positions: list[PositionText]


# The answer where there was nothing to take.
IGNORED = Receipt(0, 0, 1, 0, [])


class Ingest:
    """Takes deliveries whose signature has been verified."""

    def __init__(self, log: EventLog, quarantine: Quarantine, limits: Limits | None = None) -> None:
        """What is beyond the `limits` goes to quarantine as a whole."""
        self._log = log
        self._quarantine = quarantine
        self._limits = limits or Limits()

    async def deliver(self, body: bytes, headers: Mapping[str, str] | None = None) -> Receipt:
        """Read a delivery and keep what is in it; UnavailableError means: send it again.

        So does QuarantineFullError: what can't be read, in whole or in part, has no room then, and
        none of it is in the log but for what was found out there, an event id with other content.

        A few of the `headers` are kept beside what has to go into quarantine.
        """
        decoded = await self._decode(body)
        # First, or a delivery for whose other part there is no room would be in the log in part.
        if decoded.rejected:
            await self._keep(body, decoded.rejected[0], headers)
        receipt, conflicts = await self._take(decoded)
        if conflicts and not decoded.rejected:
            await self._keep(body, conflicts[0], headers)
        return receipt

    async def _keep(
        self, body: bytes, problem: UnreadableError, headers: Mapping[str, str] | None
    ) -> None:
        about = {"reason": problem.reason, "detail": problem.detail}
        key = await self._quarantine.put(body, **about, headers=_kept(headers or {}))
        _log.warning("delivery quarantined", quarantine_id=str(key), **about)

    async def replay(self, key: uuid.UUID) -> bool:
        """Try a delivery in quarantine again; return whether all of it could be taken now."""
        found = await self._quarantine.show(key)
        if found is None:
            return False
        _, body = found
        decoded = await self._decode(body)
        _, conflicts = await self._take(decoded)
        if decoded.rejected or conflicts:
            return False
        await self._quarantine.remove(key)
        return True

    async def _decode(self, body: bytes) -> Decoded:
        if usual := decode_usual(body, self._limits):
            return usual
        return await Timeslices().run(decoding(body, self._limits))

    async def _take(self, decoded: Decoded) -> tuple[Receipt, list[UnreadableError]]:
        """Append what could be read; return besides what is in the log with other content."""
        if not decoded.events and not decoded.rejected:
            _log.debug("delivery ignored")
            return IGNORED, []
        appended = await self._log.append(decoded.events) if decoded.events else []
        conflicts = _conflicts(appended)
        return _receipt(appended, len(decoded.rejected) + len(conflicts)), conflicts


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to keep; bytes that are no UTF-8 could not be stored, so are replaced."""
    return {
        name: headers[name].encode(errors="surrogateescape").decode(errors="replace")
        for name in _KEPT_HEADERS
        if name in headers
    }


def _conflicts(appended: list[Appended]) -> list[UnreadableError]:
    reason, detail = "same-id-other-content", "position {} has the same event id, other content"
    return [
        UnreadableError(reason, detail.format(one.position))
        for one in appended
        if one.outcome is Outcome.CONFLICT
    ]


def _receipt(appended: list[Appended], quarantined: int) -> Receipt:
    outcomes = [one.outcome for one in appended]
    positions = [str(one.position) for one in appended if one.outcome is not Outcome.CONFLICT]
    counts = (outcomes.count(Outcome.APPENDED), outcomes.count(Outcome.DUPLICATE))
    return Receipt(*counts, 0, quarantined, positions)
