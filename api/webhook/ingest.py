"""What happens to a delivery that was signed: into the log, into quarantine, or ignored.

Whatever comes back from `deliver` is durable. Nothing that was signed is ever lost or refused
for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from api.webhook.decode import Decoded, Limits, decode_usual, decoding
from eventstore.errors import QuarantineFullError, SealBrokenError
from eventstore.events import Appended, Outcome, Unreadable
from projections.fold.timeslice import Timeslices
from projections.query.formats import PositionText

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from eventstore.events import NewEvent
    from eventstore.log import EventLog
    from eventstore.quarantine import Quarantine

# Kept with a delivery in quarantine, to find out who sent it.
_KEPT_HEADERS = ("content-type", "user-agent", "x-fp-event-id")

_log = structlog.stdlib.get_logger("userlog.ingest")


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a delivery; `positions` has one for each event that is in the log.

    `ignored` are deliveries about something else, and entries that can't be read of users who were
    erased; `quarantined` are entries, or whole deliveries.
    """

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
        if not decoded.events and not decoded.rejected:
            _log.debug("delivery ignored")
            return IGNORED
        # First, or a delivery for whose other part there is no room would be in the log in part.
        quarantined, dropped = await self._keep(decoded.rejected, headers)
        appended, conflicts = await self._take(decoded)
        if conflicts:
            more, of_erased = await self._keep(conflicts, headers)
            quarantined, dropped = quarantined + more, dropped + of_erased
        return _receipt(appended, dropped, quarantined)

    async def _keep(
        self, unreadable: list[Unreadable], headers: Mapping[str, str] | None
    ) -> tuple[int, int]:
        """Put into quarantine what is not about users who were erased.

        Return how much that is, and how much is about erased users; the same bytes twice are one.
        """
        if not unreadable:
            return 0, 0
        kept = await self._quarantine.put_all(unreadable, _kept(headers or {}))
        dropped = len({one.body for one in unreadable}) - len(kept)
        if kept:
            first = unreadable[0]
            about = {"reason": first.reason, "detail": first.detail, "entries": len(kept)}
            _log.warning("delivery quarantined", quarantine_id=str(kept[0]), **about)
        if dropped:
            _log.warning("unreadable entries of erased users dropped", entries=dropped)
        return len(kept), dropped

    async def replay(self, key: uuid.UUID) -> bool:
        """Try what is in quarantine again; return whether all of it could be taken now.

        Of what has several entries, those that could not be taken are left, each by itself; what is
        left is its user's if the ids can be read, also if it came to a version that kept none.
        """
        found = await self._quarantine.show(key)
        if found is None:
            return False
        about, body = found
        decoded = await self._decode(body)
        _, conflicts = await self._take(decoded)
        left = decoded.rejected + conflicts
        ids = await self._quarantine.ids(left)
        its_user = [one for one, its in zip(left, ids, strict=True) if its == key and one.user_id]
        others = [one for one, its in zip(left, ids, strict=True) if its != key]
        if about.user_id is None:
            others += its_user
        if others:
            await self._quarantine.put_all(others, about.headers)
        if its_user or key not in ids:
            await self._quarantine.remove(key, unattributed=bool(its_user))
        return not left

    async def replay_all(self) -> bool:
        """Try all that is in quarantine again, so that each entry that is left is its user's.

        Return whether it was tried with all: not, if there was no room for the parts of something.
        """
        had_room = True
        for key in await self._quarantine.keys(None):
            try:
                await self.replay(key)
            except (SealBrokenError, QuarantineFullError) as error:
                _log.warning("left in quarantine", quarantine_id=str(key), problem=str(error))
                had_room &= isinstance(error, SealBrokenError)
        return had_room

    async def _decode(self, body: bytes) -> Decoded:
        if usual := decode_usual(body, self._limits):
            return usual
        return await Timeslices().run(decoding(body, self._limits))

    async def _take(self, decoded: Decoded) -> tuple[list[Appended], list[Unreadable]]:
        """Append what could be read; return besides what is in the log with other content."""
        appended = await self._log.append(decoded.events) if decoded.events else []
        return appended, conflicting(decoded.events, appended)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to keep; bytes that are no UTF-8 could not be stored, so are replaced."""
    return {
        name: headers[name].encode(errors="surrogateescape").decode(errors="replace")
        for name in _KEPT_HEADERS
        if name in headers
    }


def conflicting(events: list[NewEvent], appended: list[Appended]) -> list[Unreadable]:
    """Return the events that are in the log with other content."""
    reason, detail = "same-id-other-content", "position {} has the same event id, other content"
    return [
        Unreadable(
            event.payload or b"",
            reason,
            detail.format(one.position),
            event.application_id,
            event.user_id,
        )
        for event, one in zip(events, appended, strict=True)
        if one.outcome is Outcome.CONFLICT
    ]


def _receipt(appended: list[Appended], dropped: int, quarantined: int) -> Receipt:
    outcomes = [one.outcome for one in appended]
    positions = [str(one.position) for one in appended if one.outcome is not Outcome.CONFLICT]
    counts = (outcomes.count(Outcome.APPENDED), outcomes.count(Outcome.DUPLICATE))
    return Receipt(*counts, dropped, quarantined, positions)
