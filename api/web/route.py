"""Routes as data: what is asked, which scope it needs, its parameters and its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic

import msgspec
from aiohttp import web

from api.web.params import P, Parameters
from api.web.tokens import Scope

JSON = "application/json"


class Delivery(msgspec.Struct, frozen=True):
    """The body of a signed request: what it is, examples by name, the header of the signature."""

    description: str
    examples: dict[str, Any]
    signature_header: str


class Route(msgspec.Struct, Generic[P], frozen=True):
    """A request, its handler and its description.

    `call` returns an `answer`, which is encoded as JSON, or a response of one of the types in
    `media`. `problems` are the statuses of what can go wrong here and not everywhere.
    Without a `scope` no token is needed, and unknown parameters are allowed: a load balancer may
    add some, or the platform. What is answered `without_database` takes a token as it was known
    last, while the tokens can't be read. `posted` parameters are the members of a JSON body, so
    that no proxy writes them down with the path.
    """

    method: str
    path: str
    call: Callable[[web.Request, P], Awaitable[object]]
    answer: type
    scope: Scope | None
    parameters: type[P] = Parameters  # type: ignore[assignment] # P's default, which only Python 3.13 can state
    media: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    delivery: Delivery | None = None
    posted: bool = False
    without_database: bool = False
