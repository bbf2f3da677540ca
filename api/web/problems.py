"""Everything but success, as a problem document (RFC 9457) that says what to do."""

from __future__ import annotations

import msgspec
from aiohttp import web

CONTENT_TYPE = "application/problem+json"
# When each status is answered.
MEANINGS = {
    400: "what was sent can't be read; `errors` names each parameter that is wrong or unknown",
    401: "the token, or the signature of a delivery, is missing or wrong",
    403: "the token is valid, but its scopes or applications do not include this",
    404: "no such user, or none at that time, or no such path",
    405: "the path does not take this method; the header Allow lists those it takes",
    408: "the body did not arrive in time; send it again",
    409: "the place is none of this log: it is another one, or was restored to before",
    410: "the user was erased",
    413: "the body is too large; of a delivery, USERLOG_BODY_BYTES_MAX is the limit",
    415: "the body has a Content-Encoding; send it as it was signed",
    429: "this token has too much at once; send it again after the seconds in Retry-After",
    500: "a defect of userlog; its log has a line with this X-Request-Id",
    503: "not now; send it again after the seconds in Retry-After, without it ask the operator",
}


class ParameterError(msgspec.Struct, frozen=True):
    """What is wrong with one parameter."""

    parameter: str
    detail: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a problem."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ParameterError] = []


class Problem(Exception):  # noqa: N818 - it is the answer as much as an error
    """Raised by a handler; the middleware answers with it."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        errors: list[ParameterError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`title` names the kind of problem, `detail` this one and the way out."""
        super().__init__(title)
        self.document = ProblemDocument(_type(title), title, status, detail, errors or [])
        self.headers = headers or {}

    def body(self) -> bytes:
        """Make the document."""
        return msgspec.json.encode(self.document)

    def response(self) -> web.Response:
        """Make the answer."""
        return web.Response(
            status=self.document.status,
            body=self.body(),
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


def _type(title: str) -> str:
    return "urn:userlog:problem:" + "-".join(title.lower().split())


def token_wrong() -> Problem:
    """401: the token opens nothing."""
    return Problem(
        401,
        "Token missing or wrong",
        "send the header Authorization: Bearer <token>",
        headers={"WWW-Authenticate": "Bearer"},
    )


def too_large(limit: str = "see USERLOG_BODY_BYTES_MAX for the limit") -> Problem:
    """413: a body of more bytes than are taken."""
    return Problem(413, "Body too large", limit)


def unavailable(detail: str, retry_after_s: int) -> Problem:
    """503: nothing is wrong with the request, it can be sent again."""
    headers = {"Retry-After": str(retry_after_s)}
    return Problem(503, "Not available now", detail, headers=headers)


def unreadable(position: str, reason: str) -> Problem:
    """503: nothing is wrong with the request, but it takes an operator to make the answer."""
    detail = (
        f"event {position} of this user can't be read ({reason}); the operator mends the cause,"
        " then runs `userlog rebuild --user`"
    )
    return Problem(503, "Unreadable event", detail)


def damaged() -> Problem:
    """503: nothing is wrong with the request, but a row that the answer needs was altered."""
    detail = (
        "a row that is stored of a user does not open, so it was altered; the operator runs"
        " `userlog rebuild --user`, or `userlog rebuild`, which make it from the log"
    )
    return Problem(503, "Damaged row", detail)


def bad_parameter(name: str, detail: str) -> Problem:
    """400, for one parameter that does not go with another."""
    return bad_parameters([ParameterError(name, detail)])


def bad_parameters(errors: list[ParameterError]) -> Problem:
    """400, naming each parameter."""
    return Problem(400, "Bad parameters", "see `errors` for each of them", errors=errors)
