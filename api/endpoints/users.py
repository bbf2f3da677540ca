"""Users: one of them now or then, their history, a list of them, and their erasure."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
import structlog
from msgspec import Meta

from api.web.budgets import ACCESS
from api.web.params import TIME, KnownAt, Limit, MinPosition, Parameters, Rule, Text, ValidAt
from api.web.problems import Problem, unreadable
from eventstore.audit import Actor
from eventstore.quarantine import UNATTRIBUTED_MAX
from projections.fold.state import Lifecycle
from projections.query import search, users
from projections.query.formats import PositionText, Time, rfc3339
from projections.query.users import FOREVER, NotReachedError, Order, Page

if TYPE_CHECKING:
    from aiohttp import web

    from api.config.settings import Settings
    from api.web.lasting import Lasting
    from eventstore.events import Position, Stream
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from eventstore.quarantine import Quarantine
    from projections.query.users import ReadModel
    from projections.query.views import History, User, Users

_log = structlog.stdlib.get_logger("userlog.http")


_HISTORY_KEY = Rule(
    lambda text, _: users.parse_page_key(text),
    lambda _: {"type": "string", "pattern": users.PAGE_KEY_PATTERN},
)
_LIST_KEY = Rule(
    lambda text, _: search.parse_page_key(text),
    lambda _: {"type": "string", "pattern": "^(-[0-9]{1,13}|[0-9]{1,14})-[0-9]{1,4}-[0-9]{1,18}$"},
)
_NEXT = Meta(description="`next` of the page before")


class UserParameters(Parameters, frozen=True):
    """A user, now or at a moment."""

    valid_at: ValidAt = None
    known_at: KnownAt = None
    min_position: MinPosition = None


class HistoryParameters(Parameters, frozen=True):
    """A part of a user's history."""

    valid_at: ValidAt = None
    known_at: KnownAt = None
    order: Annotated[Order, Meta(description="oldest first, or newest")] = "asc"
    limit: Limit = 0
    after: Annotated[users.PageKey | None, _HISTORY_KEY, _NEXT] = None
    min_position: MinPosition = None


class ListParameters(Parameters, frozen=True):
    """Users of an application."""

    email: Annotated[
        Text | None, Meta(description="whole, in any case", examples=["jo@example.com"])
    ] = None
    phone: Annotated[
        Text | None,
        Meta(
            description="with or without country code, leading zeros and signs",
            examples=["5550001"],
        ),
    ] = None
    username: Annotated[Text | None, Meta(description="whole, in any case")] = None
    lifecycle: Annotated[Lifecycle | None, Meta(description="users who are this now")] = None
    updated_since: Annotated[
        datetime, TIME, Meta(description="users whose newest event occurred then or later")
    ] = search.EVER
    limit: Limit = 0
    after: Annotated[search.PageKey | None, _LIST_KEY, _NEXT] = None


class EraseParameters(Parameters, frozen=True):
    """Why a user is erased."""

    reason: Annotated[
        Text | None,
        Meta(description="kept in the audit, sealed", examples=["asked for it on 3 May"]),
    ] = None


class Erased(msgspec.Struct, frozen=True):
    """What an erasure destroyed, nothing if there was nothing left; `position` is its event.

    `unattributed` are ids of what is in quarantine and may be about anybody, since nothing says
    about whom: the newest 1,000.
    """

    destroyed: list[str]
    position: PositionText | None
    erased_at: Time
    unattributed: list[str]


class UserEndpoints:
    """Requests about users."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that a request about a user may need
        self,
        log: EventLog,
        pool: Pool,
        read_model: ReadModel,
        quarantine: Quarantine,
        settings: Settings,
        lasting: Lasting,
    ) -> None:
        self._log = log
        self._quarantine = quarantine
        self._pool = pool
        self._read_model = read_model
        self._wait_timeout_s = settings.wait_timeout_s
        self._lasting = lasting
        self._page_bytes_max = settings.page_bytes_max

    async def user(self, request: web.Request, given: UserParameters) -> User:
        """Answer who a user is, or was."""
        stream = self._stream(request)
        await self._wait(request, given.min_position)
        found = await self._read_model.user(stream, given.valid_at, given.known_at)
        if found is None:
            now = given.valid_at is None and given.known_at is None
            raise await self._missing(stream, now=now)
        return found

    async def history(self, request: web.Request, given: HistoryParameters) -> History:
        """Answer what happened to a user, in effective order."""
        stream = self._stream(request)
        until = given.valid_at or FOREVER
        page = Page(given.order, given.limit, given.after, until, self._page_bytes_max)
        await self._wait(request, given.min_position)
        found = await self._read_model.history(stream, given.known_at, page)
        if not found.entries and page.after is None:
            raise await self._missing(stream, now=given.known_at is None)
        return found

    async def users(self, request: web.Request, given: ListParameters) -> Users:
        """Answer which users an application has, or has with an e-mail, phone or username."""
        wanted = search.Wanted(
            request.match_info["application_id"],
            {"email": given.email, "phone": given.phone, "username": given.username},
            given.lifecycle,
            given.updated_since,
        )
        page = search.Page(given.limit, given.after, self._page_bytes_max)
        return await search.search(self._log, self._pool, wanted, page)

    async def search(self, request: web.Request, given: ListParameters) -> Users:
        """Answer the same, asked so that e-mail, phone and username stand in no access log."""
        return await self.users(request, given)

    async def erase(self, request: web.Request, given: EraseParameters) -> Erased:
        """Erase a user for good; again: nothing more to do."""
        access = request[ACCESS]
        by = Actor("token", access.name, access.token_id)
        done = await self._log.erase(self._stream(request), by, given.reason or "")
        if not done.known or done.erased_at is None:
            raise Problem(404, "No such user", "no event of this user is known; check both ids")
        position = str(done.position) if done.position else None
        _log.info("user erased", position=position)
        destroyed = ["key", "state", "history"] if position else []
        destroyed += ["quarantine"] if done.quarantined else []
        left = await self._quarantine.unattributed(UNATTRIBUTED_MAX)
        return Erased(destroyed, position, rfc3339(done.erased_at), list(map(str, left)))

    def _stream(self, request: web.Request) -> Stream:
        ids = request.match_info
        application_id, user_id = ids["application_id"], ids["user_id"]
        if "\0" in application_id + user_id:
            raise Problem(404, "No such user", "an id can't contain a NUL character")
        return self._log.stream(application_id, user_id)

    async def _wait(self, request: web.Request, position: Position | None) -> None:
        """Wait for the read model; a token of some applications not for what is not in the log."""
        if position is None or await self._read_model.has_reached(position):
            return
        timeout_s = self._wait_timeout_s
        if request[ACCESS].applications is not None and not await self._in_log(position):
            timeout_s = 0
        wait = partial(self._read_model.wait_for, position, timeout_s)
        try:
            await self._lasting.wait(request, wait)
        except NotReachedError as error:
            again = {"Retry-After": "1"}
            raise Problem(
                503, "Position not reached", f"{error}; ask again", headers=again
            ) from None

    async def _in_log(self, position: Position) -> bool:
        heads = {one.position.partition: one.position for one in await self._log.heads()}
        return position <= heads[position.partition]

    async def _missing(self, stream: Stream, *, now: bool) -> Problem:
        if await self._log.is_erased(stream):
            return Problem(410, "User erased", "the data of this user was erased for good")
        if now and (stale := await self._read_model.stale(stream)):
            return unreadable(stale.position, stale.reason)
        detail = "no event of this user is known, or none by that time; check both ids"
        return Problem(404, "No such user", detail)
