"""Signed heads: what the log was at a time, to be kept elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventstore import signed_heads
from projections.query.formats import PositionText, Time, rfc3339

if TYPE_CHECKING:
    from aiohttp import web

    from api.web.params import Parameters
    from eventstore.log import EventLog


class Signed(msgspec.Struct, frozen=True):
    """The newest signed head of a partition; `note` is a signed note (c2sp.org/signed-note)."""

    position: PositionText
    signed_at: Time
    note: str


class SignedHeads(msgspec.Struct, frozen=True):
    """The newest of each partition, and what verifies them; null and none before the first."""

    log_id: str
    public_key: str | None
    heads: list[Signed]


class SignedHeadEndpoints:
    """Requests for signed heads."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def signed_heads(self, _request: web.Request, _given: Parameters) -> SignedHeads:
        """Answer the newest signed heads."""
        key = await signed_heads.known_key(self._log)
        found = await signed_heads.newest(self._log)
        return SignedHeads(
            str(self._log.log_id),
            str(key.public) if key else None,
            [Signed(str(one.position), rfc3339(one.signed_at), one.note) for one in found],
        )
