"""Users: one of them now or then, their history, a list of them, and their erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from api.web import params
from api.web.problems import Problem, unreadable
from projections.query import search
from projections.query.formats import PositionText, Time, rfc3339
from projections.query.users import FOREVER, NotReachedError, Page

if TYPE_CHECKING:
    from aiohttp import web

    from api.config.settings import Settings
    from api.web.params import Params
    from eventstore.events import Position, Stream
    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from projections.query.users import ReadModel
    from projections.query.views import History, User, Users

_log = structlog.stdlib.get_logger("userlog.http")


class Erased(msgspec.Struct, frozen=True):
    """What an erasure destroyed, nothing if there was nothing left; `position` is its event."""

    destroyed: list[str]
    position: PositionText | None
    erased_at: Time


class UserEndpoints:
    """Requests about users."""

    def __init__(
        self, log: EventLog, pool: Pool, read_model: ReadModel, settings: Settings
    ) -> None:
        self._log = log
        self._pool = pool
        self._read_model = read_model
        self._wait_timeout_s = settings.wait_timeout_s
        self.limit = params.limit(settings.page_rows_max)
        self.min_position = params.PositionParams(log.partitions).min_position

    async def user(self, request: web.Request, query: Params) -> User:
        """Answer who a user is, or was."""
        stream = self._stream(request)
        valid_at, known_at = query[params.VALID_AT], query[params.KNOWN_AT]
        await self._wait(query[self.min_position])
        found = await self._read_model.user(stream, valid_at, known_at)
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
        found = await self._read_model.history(stream, known_at, page)
        if not found.entries and page.after is None:
            raise await self._missing(stream, now=known_at is None)
        return found

    async def users(self, request: web.Request, query: Params) -> Users:
        """Answer which users an application has, or has with an e-mail, phone or username."""
        wanted = search.Wanted(
            request.match_info["application_id"],
            {
                "email": query[params.EMAIL],
                "phone": query[params.PHONE],
                "username": query[params.USERNAME],
            },
            query[params.LIFECYCLE],
            query[params.UPDATED_SINCE],
        )
        limit, after = query[self.limit], query[params.SEARCH_AFTER]
        partitions = self._log.partitions
        return await search.search(self._pool, partitions, wanted, limit=limit, after=after)

    async def erase(self, request: web.Request, _query: Params) -> Erased:
        """Erase a user for good; again: nothing more to do."""
        done = await self._log.erase(self._stream(request))
        if not done.known or done.erased_at is None:
            raise Problem(404, "No such user", "no event of this user is known; check both ids")
        position = str(done.position) if done.position else None
        _log.info("user erased", position=position)
        destroyed = ["key", "state", "history"] if position else []
        return Erased(destroyed, position, rfc3339(done.erased_at))

    def _stream(self, request: web.Request) -> Stream:
        ids = request.match_info
        application_id, user_id = ids["application_id"], ids["user_id"]
        if "\0" in application_id + user_id:
            raise Problem(404, "No such user", "an id can't contain a NUL character")
        return self._log.stream(application_id, user_id)

    async def _wait(self, position: Position | None) -> None:
        if position is None:
            return
        try:
            await self._read_model.wait_for(position, self._wait_timeout_s)
        except NotReachedError as error:
            raise Problem(
                503, "Position not reached", f"{error}; ask again", headers={"Retry-After": "1"}
            ) from error

    async def _missing(self, stream: Stream, *, now: bool) -> Problem:
        if await self._log.is_erased(stream):
            return Problem(410, "User erased", "the data of this user was erased for good")
        if now and (stale := await self._read_model.stale(stream)):
            return unreadable(stale.position, stale.reason)
        detail = "no event of this user is known, or none by that time; check both ids"
        return Problem(404, "No such user", detail)
