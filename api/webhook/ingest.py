"""What happens to a delivery that was signed: into the log, into quarantine, or ignored.

Whatever comes back from `deliver` is durable. Nothing that was signed is ever lost or refused
for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog

from api.webhook.decode import decode
from eventstore.events import Appended, Outcome
from projections.deliveries.envelope import UnreadableError
from projections.query.views import Place

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping

    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine

    Headers: TypeAlias = Callable[[], Mapping[str, str]]

_log = structlog.stdlib.get_logger("userlog.ingest")


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a delivery; `positions` has one for each event that is in the log."""

    accepted: int
    duplicates: int
    ignored: int
    quarantined: int
    positions: list[Place]


IGNORED = Receipt(0, 0, 1, 0, [])
"""What is answered where there was nothing to take."""


class Ingest:
    """Takes deliveries whose signature has been verified."""

    def __init__(self, log: EventLog, quarantine: Quarantine) -> None:
        """Everything goes to one of the two."""
        self._log = log
        self._quarantine = quarantine

    async def deliver(self, body: bytes, headers: Headers | None = None) -> Receipt:
        """Read a delivery and keep what is in it; UnavailableError means: send it again.

        `headers` are asked for, and kept, beside what has to go into quarantine.
        """
        receipt, problem = await self._take(body)
        if problem is not None:
            kept = headers() if headers else None
            key = await self._quarantine.put(body, problem.reason, problem.detail, kept)
            said = {"reason": problem.reason, "detail": problem.detail}
            _log.warning("delivery quarantined", quarantine_id=str(key), **said)
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
        decoded = decode(body)
        if not decoded.events and not decoded.rejected:
            _log.debug("delivery ignored")
            return IGNORED, None
        appended = await self._log.append(decoded.events) if decoded.events else []
        problems = [*decoded.rejected, *_conflicts(appended)]
        return _receipt(appended, len(problems)), problems[0] if problems else None


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
