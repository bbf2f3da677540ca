"""What happens to a delivery that was signed: into the log, into quarantine, or ignored.

Whatever comes back from `deliver` is durable. Nothing that was signed is ever lost or refused
for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from api.webhook.decode import Limits, decoding
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

        A few of the `headers` are kept beside what has to go into quarantine.
        """
        receipt, problem = await self._take(body)
        if problem is not None:
            about = {"reason": problem.reason, "detail": problem.detail}
            key = await self._quarantine.put(body, **about, headers=_kept(headers or {}))
            _log.warning("delivery quarantined", quarantine_id=str(key), **about)
        return receipt

    async def replay(self, key: uuid.UUID) -> bool:
        """Try a delivery in quarantine again; return whether all of it could be taken now."""
        found = await self._quarantine.show(key)
        if found is None:
            return False
        _, body = found
        _, problem = await self._take(body)
        if problem is None:
            await self._quarantine.remove(key)
        return problem is None

    async def _take(self, body: bytes) -> tuple[Receipt, UnreadableError | None]:
        """Append what can be read; return the first reason why not all of it could be taken."""
        decoded = await Timeslices().run(decoding(body, self._limits))
        if not decoded.events and not decoded.rejected:
            _log.debug("delivery ignored")
            return IGNORED, None
        appended = await self._log.append(decoded.events) if decoded.events else []
        problems = [*decoded.rejected, *_conflicts(appended)]
        return _receipt(appended, len(problems)), problems[0] if problems else None


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
