"""The HTTP requests, each turned into one call and its answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiohttp import hdrs, web

from api import metrics, params
from api.ingest import Receipt
from api.payloads import is_ping
from api.problems import Problem, unreadable
from api.signatures import HEADER, verify
from projections import progress, search, set_aside, stats
from projections.answers import rfc3339
from projections.read_model import FOREVER, NotReachedError, Page, parse_mark

if TYPE_CHECKING:
    from api.in_hand import InHand
    from api.metrics import Metrics
    from api.runtime import Runtime
    from api.secret_files import Secrets
    from eventstore.events import Position, Stream
    from projections.state import Lifecycle
    from projections.terms import What

_PAGE_ROWS = 100
_KEPT_HEADERS = ("content-type", "user-agent", "x-fp-event-id")
"""Kept with a delivery in quarantine, to find out who sent it."""
_log = structlog.stdlib.get_logger("userlog.http")
_encode = msgspec.json.Encoder().encode


def answer(value: object, status: int = 200) -> web.Response:
    """Encode an answer."""
    return web.Response(body=_encode(value), status=status, content_type="application/json")


class Handlers:
    """What the routes call."""

    def __init__(
        self, runtime: Runtime, secrets: Secrets, metrics: Metrics, in_hand: InHand
    ) -> None:
        """All webhook secrets are accepted, so that they can be rotated."""
        self._runtime = runtime
        self._metrics = metrics
        self._in_hand = in_hand
        self._secrets = secrets
        self._limit = params.number(1, runtime.settings.page_rows_max)
        self._position = partial(params.position, runtime.log.partitions)

    async def webhook(self, request: web.Request) -> web.Response:
        """Take a delivery; 200 means that it is durable, or ignored, or in quarantine."""
        body_bytes_max = self._runtime.settings.body_bytes_max
        with self._in_hand.room(min(request.content_length or body_bytes_max, body_bytes_max)):
            return await self._deliver(request)

    async def _deliver(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if not verify(body, request.headers.get(HEADER), self._secrets.webhook_secrets):
            if is_ping(body):
                return answer(Receipt(ignored=1))
            raise Problem(401, "Signature missing or wrong", _SIGNATURE_HELP)
        kept = {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
        receipt = await self._runtime.ingest.deliver(body, kept)
        self._metrics.delivery(receipt)
        return answer(receipt)

    async def user(self, request: web.Request) -> web.Response:
        """Answer who a user is, or was."""
        stream = self._stream(request)
        query = params.Params(request.query)
        valid_at = query.take("valid_at", params.moment)
        known_at = query.take("known_at", params.moment)
        min_position = query.take("min_position", self._position)
        query.done()
        await self._wait(min_position)
        found = await self._runtime.read_model.user(stream, valid_at, known_at)
        if found is None:
            raise await self._missing(stream, now=valid_at is None and known_at is None)
        return answer(found)

    async def history(self, request: web.Request) -> web.Response:
        """Answer what happened to a user, in effective order."""
        stream = self._stream(request)
        query = params.Params(request.query)
        valid_at = query.take("valid_at", params.moment)
        known_at = query.take("known_at", params.moment)
        min_position = query.take("min_position", self._position)
        page = Page(
            order="desc" if query.take("order", params.one_of("asc", "desc")) == "desc" else "asc",
            limit=query.take("limit", self._limit) or _PAGE_ROWS,
            after=query.take("after", parse_mark),
            valid_at=valid_at or FOREVER,
        )
        query.done()
        await self._wait(min_position)
        found = await self._runtime.read_model.history(stream, known_at, page)
        if not found.entries and page.after is None:
            raise await self._missing(stream, now=known_at is None)
        return answer(found)

    async def users(self, request: web.Request) -> web.Response:
        """Answer which users an application has, or has with an e-mail, phone or username."""
        query = params.Params(request.query)
        values: dict[What, str | None] = {
            "email": query.take("email", params.text),
            "phone": query.take("phone", params.text),
            "username": query.take("username", params.text),
        }
        wanted = search.Wanted(
            values,
            query.take("lifecycle", _lifecycle),
            query.take("updated_since", params.moment) or search.EVER,
        )
        limit = query.take("limit", self._limit) or _PAGE_ROWS
        after = query.take("after", search.parse_mark)
        query.done()
        application_id = request.match_info["application_id"]
        log = self._runtime.log
        return answer(await search.search(log, application_id, wanted, limit=limit, after=after))

    async def erase(self, request: web.Request) -> web.Response:
        """Erase a user for good; again: nothing more to do."""
        stream = self._stream(request)
        params.Params(request.query).done()
        done = await self._runtime.log.erase(stream)
        if not done.known or done.erased_at is None:
            raise Problem(404, "No such user", "no event of this user is known; check both ids")
        _log.info("user erased", position=str(done.position) if done.position else None)
        destroyed = ["key", "state", "history"] if done.position else []
        position = str(done.position) if done.position else None
        return answer(
            {"destroyed": destroyed, "position": position, "erased_at": rfc3339(done.erased_at)}
        )

    async def stats(self, request: web.Request) -> web.Response:
        """Answer an application's numbers, day by day."""
        application_id = request.match_info["application_id"]
        query = params.Params(request.query)
        last = query.take("to", params.day) or params.today()
        days_max = self._runtime.settings.page_rows_max
        first = query.take("from", partial(params.first_day, last, days_max))
        query.done()
        days = await stats.days_of(
            self._runtime.log, application_id, first or params.days_before(last), last
        )
        return answer({"application_id": application_id, "days": days})

    async def status(self, request: web.Request) -> web.Response:
        """Answer how far the log and the read models have come."""
        params.Params(request.query).done()
        return answer(await status(self._runtime))

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer what a monitoring system reads."""
        params.Params(request.query).done()
        headers = {hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
        return web.Response(body=await self._metrics.read(), headers=headers)

    async def live(self, _request: web.Request) -> web.Response:
        """Say that the process serves."""
        return answer({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Say that the database answers too."""
        await self._runtime.log.heads()
        return answer({"status": "ok"})

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


_SIGNATURE_HELP = (
    f"the header {HEADER} must be the lower-case hex HMAC-SHA256 of the raw body"
    " under a secret in USERLOG_WEBHOOK_SECRETS"
)


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Problem(413, "Body too large", "see USERLOG_BODY_BYTES_MAX for the limit") from None
    except (web.RequestPayloadError, ConnectionError):
        detail = "it ended early, or is not encoded as its headers say"
        raise Problem(400, "Body not received", detail) from None


def _lifecycle(text: str) -> Lifecycle:
    for one in search.LIFECYCLES:
        if text == one:
            return one
    raise ValueError(f"one of {', '.join(search.LIFECYCLES)}")


async def status(runtime: Runtime) -> dict[str, Any]:
    """Gather how far the log and the read models have come."""
    heads = await runtime.log.heads()
    return {
        "heads": [
            {
                "position": str(head.position),
                "chain": head.chain.hex(),
                "recorded_at": rfc3339(head.recorded_at) if head.position.number else None,
            }
            for head in heads
        ],
        "projections": await runtime.read_model.lags(),
        "set_aside": await set_aside.count(runtime.log.pool),
        "rebuild": await progress.read(runtime.log.pool),
        "scrub": runtime.scrubber.scrubbed,
        "quarantined": await runtime.quarantine.count(),
    }
