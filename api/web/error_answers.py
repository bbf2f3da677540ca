"""Errors and their answers: which status each gets, 503 among them, and what is logged of it."""

from __future__ import annotations

from difflib import SequenceMatcher
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import hdrs, web

from api.web.problems import Problem, damaged, unavailable, unreadable
from eventstore.errors import (
    LoginError,
    MasterKeyMovedError,
    QuarantineFullError,
    QueueFullError,
    SchemaMovedError,
    SealBrokenError,
    UnavailableError,
    explained,
)
from projections.fold.poison import PoisonError

if TYPE_CHECKING:
    from api.observe.logs import ThrottledLog

CANT_BE_ANSWERED = "this HTTP request can't be answered"
_RETRY_AFTER_S = 5
# Of two paths that look alike.
_NEAR = 0.5
# It takes a person to make room.
_RETRY_AFTER_ROOM_S = 60
# What a refused delivery is counted as.
_REFUSALS = {
    400: "incomplete",
    401: "signature",
    408: "slow",
    413: "too-large",
    415: "encoded",
    503: "overloaded",
}
_AWAY = "the database is not available; send it again"
_log = structlog.stdlib.get_logger("userlog.http")


def problem_of(error: Exception, throttled: ThrottledLog) -> Problem:
    """Return the answer to a request that failed; a defect is logged as well."""
    match explained(error) or error:
        case Problem() as problem:
            return problem
        case web.HTTPException() as refusal:
            return _of_http(refusal)
        case UnavailableError() as away:
            return _unavailable(away, throttled)
        case LoginError() as refused:  # for an operator to mend; deliveries come again
            throttled.warning(_log, "database refuses the service", problem=str(refused))
            return unavailable(_AWAY, _RETRY_AFTER_S)
        case PoisonError() as poison:
            about = {"position": str(poison.position), "reason": poison.reason}
            _log.warning("event can't be read", **about)
            return unreadable(**about)
        case _:
            return _of_what_should_not_be(error)


def _of_what_should_not_be(error: Exception) -> Problem:
    if isinstance(error, SealBrokenError):
        _log.error("a stored row does not open", problem=str(error))
        return damaged()
    _log.error("request failed", exc_info=error)
    detail = "this is a defect of userlog; its log has a line with this X-Request-Id"
    return Problem(500, "Internal error", detail)


def _unavailable(error: UnavailableError, throttled: ThrottledLog) -> Problem:
    match error:
        case QueueFullError():
            throttled.warning(_log, "queue is full")
            return unavailable("too many events wait to be written; send it again", 1)
        case QuarantineFullError():
            throttled.warning(_log, "quarantine is full", problem=str(error))
            detail = "this can't be read, and there is no room to keep it; send it again"
            return unavailable(detail, _RETRY_AFTER_ROOM_S)
        case SchemaMovedError() | MasterKeyMovedError():
            throttled.warning(_log, "service does not fit the database", problem=str(error))
            return unavailable(str(error), _RETRY_AFTER_S)
        case _:
            throttled.warning(_log, "database not available", problem=str(error))
            return unavailable(_AWAY, _RETRY_AFTER_S)


def refusal_of(error: Exception) -> str:
    """Return what a delivery that failed is counted as."""
    match explained(error) or error:
        case Problem() as problem:
            return _REFUSALS.get(problem.document.status, "defect")
        case QueueFullError():
            return "queue-full"
        case QuarantineFullError():
            return "quarantine-full"
        case UnavailableError() | LoginError():
            return "unavailable"
        case _:
            return "defect"


def looks_like(path: str, other: str) -> bool:
    """Say whether somebody who asked for a path may have meant another."""
    near = SequenceMatcher(None, path[: 2 * len(other)].lower(), other, autojunk=False)
    return near.ratio() > _NEAR


def _of_http(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405, "Method not allowed", f"allowed here: {allow}", headers={hdrs.ALLOW: allow}
        )
    if error.status == HTTPStatus.NOT_FOUND:
        return Problem(404, "No such path", "GET /openapi.json lists the paths")
    return Problem(error.status, error.reason, CANT_BE_ANSWERED)
