"""The HTTP requests, each turned into one call and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
from aiohttp import hdrs, web

from api.endpoints import status
from api.observe import metrics
from api.web import params, rules
from api.web.problems import Problem, bad_parameter, unreadable
from api.webhook.decode import is_ping
from api.webhook.ingest import IGNORED, Receipt
from api.webhook.verify import HEADER, verify
from projections.query import search, stats
from projections.query.stats import Day
from projections.query.users import FOREVER, NotReachedError, Page
from projections.query.views import History, Place, Time, User, Users, rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.config.secret_files import Secrets
    from api.endpoints.status import Status
    from api.observe.metrics import Metrics
    from api.runtime import Runtime
    from api.web.inflight import InHand
    from api.web.params import Params
    from eventstore.events import Position, Stream

_KEPT_HEADERS = ("content-type", "user-agent", "x-fp-event-id")
"""Kept with a delivery in quarantine, to find out who sent it."""
_SIGNATURE_HELP = (
    f"the header {HEADER} must be the lower-case hex HMAC-SHA256 of the raw body"
    " under a secret in USERLOG_WEBHOOK_SECRETS"
)
_log = structlog.stdlib.get_logger("userlog.http")


class Erased(msgspec.Struct, frozen=True):
    """What an erasure destroyed, nothing if there was nothing left; `position` is its event."""

    destroyed: list[str]
    position: Place | None
    erased_at: Time


class Stats(msgspec.Struct, frozen=True):
    """An application's numbers by day; no days if nothing is known of it by the last."""

    application_id: str
    days: list[Day]


class Health(msgspec.Struct, frozen=True):
    """All is well; what is not is said by a problem."""

    status: Literal["ok"]


class Handlers:
    """What the routes call, with the parameters that they declare."""

    def __init__(
        self, runtime: Runtime, secrets: Secrets, metrics: Metrics, in_hand: InHand
    ) -> None:
        """All webhook secrets are accepted, so that they can be rotated."""
        self._runtime = runtime
        self._metrics = metrics
        self._in_hand = in_hand
        self._secrets = secrets
        self.limit = params.limit(runtime.settings.page_rows_max)
        self.min_position = params.Places(runtime.log.partitions).min_position

    async def webhook(self, request: web.Request, _query: Params) -> Receipt:
        """Take a delivery; 200 means that it is durable, or ignored, or in quarantine."""
        body = await self._in_hand.read(request)
        if not verify(body, request.headers.get(HEADER), self._secrets.webhook_secrets):
            if is_ping(body):
                return IGNORED
            raise Problem(401, "Signature missing or wrong", _SIGNATURE_HELP)
        receipt = await self._runtime.ingest.deliver(body, lambda: _kept(request.headers))
        self._metrics.delivery(receipt)
        return receipt

    async def user(self, request: web.Request, query: Params) -> User:
        """Answer who a user is, or was."""
        stream = self._stream(request)
        valid_at, known_at = query[params.VALID_AT], query[params.KNOWN_AT]
        await self._wait(query[self.min_position])
        found = await self._runtime.read_model.user(stream, valid_at, known_at)
        if found is None:
            raise await self._missing(stream, now=valid_at is None and known_at is None)
        return found

    async def history(self, request: web.Request, query: Params) -> History:
        """Answer what happened to a user, in effective order."""
        stream = self._stream(request)
        known_at = query[params.KNOWN_AT]
        page = Page(
            order=query[params.ORDER],
            limit=query[self.limit],
            after=query[params.HISTORY_AFTER],
            valid_at=query[params.VALID_AT] or FOREVER,
        )
        await self._wait(query[self.min_position])
        found = await self._runtime.read_model.history(stream, known_at, page)
        if not found.entries and page.after is None:
            raise await self._missing(stream, now=known_at is None)
        return found

    async def users(self, request: web.Request, query: Params) -> Users:
        """Answer which users an application has, or has with an e-mail, phone or username."""
        wanted = search.Wanted(
            {
                "email": query[params.EMAIL],
                "phone": query[params.PHONE],
                "username": query[params.USERNAME],
            },
            query[params.LIFECYCLE],
            query[params.UPDATED_SINCE],
        )
        return await search.search(
            self._runtime.log,
            request.match_info["application_id"],
            wanted,
            limit=query[self.limit],
            after=query[params.SEARCH_AFTER],
        )

    async def erase(self, request: web.Request, _query: Params) -> Erased:
        """Erase a user for good; again: nothing more to do."""
        done = await self._runtime.log.erase(self._stream(request))
        if not done.known or done.erased_at is None:
            raise Problem(404, "No such user", "no event of this user is known; check both ids")
        position = str(done.position) if done.position else None
        _log.info("user erased", position=position)
        destroyed = ["key", "state", "history"] if position else []
        return Erased(destroyed, position, rfc3339(done.erased_at))

    async def stats(self, request: web.Request, query: Params) -> Stats:
        """Answer an application's numbers, day by day."""
        application_id = request.match_info["application_id"]
        last = query[params.TO] or rules.today()
        days_max = self._runtime.settings.page_rows_max
        try:
            first = rules.first_day(query[params.FROM], last, days_max)
        except ValueError as error:
            raise bad_parameter(params.FROM.name, str(error)) from None
        days = await stats.days_of(self._runtime.log, application_id, first, last)
        return Stats(application_id, days)

    async def status(self, _request: web.Request, _query: Params) -> Status:
        """Answer how far the log and the read models have come."""
        return await status.status(self._runtime)

    async def metrics(self, _request: web.Request, _query: Params) -> web.Response:
        """Answer what a monitoring system reads."""
        headers = {hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
        return web.Response(body=await self._metrics.read(), headers=headers)

    async def live(self, _request: web.Request, _query: Params) -> Health:
        """Say that the process serves."""
        return Health("ok")

    async def ready(self, _request: web.Request, _query: Params) -> Health:
        """Say that the database answers too."""
        await self._runtime.log.heads()
        return Health("ok")

    def _stream(self, request: web.Request) -> Stream:
        ids = request.match_info
        application_id, user_id = ids["application_id"], ids["user_id"]
        if "\0" in application_id + user_id:
            raise Problem(404, "No such user", "an id can't contain a NUL character")
        return self._runtime.log.stream(application_id, user_id)

    async def _wait(self, position: Position | None) -> None:
        if position is None:
            return
        try:
            timeout_s = self._runtime.settings.wait_timeout_s
            await self._runtime.read_model.wait_for(position, timeout_s)
        except NotReachedError as error:
            raise Problem(
                503, "Position not reached", f"{error}; ask again", headers={"Retry-After": "1"}
            ) from error

    async def _missing(self, stream: Stream, *, now: bool) -> Problem:
        if await self._runtime.log.is_erased(stream):
            return Problem(410, "User erased", "the data of this user was erased for good")
        if now and (stale := await self._runtime.read_model.stale(stream)):
            return unreadable(stale.position, stale.reason)
        detail = "no event of this user is known, or none by that time; check both ids"
        return Problem(404, "No such user", detail)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what is kept of a delivery's headers.

    Bytes that are no UTF-8 are replaced: they could not be stored.
    """
    return {
        name: headers[name].encode(errors="surrogateescape").decode(errors="replace")
        for name in _KEPT_HEADERS
        if name in headers
    }
