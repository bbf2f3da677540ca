"""Request ids: every answer carries one, and so do the log lines about it."""

from __future__ import annotations

import re
from random import getrandbits
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

HEADER = "X-Request-Id"
_GIVEN = re.compile(r"[\w.-]{1,64}", re.ASCII)


def new() -> str:
    """Return an id that no other answer has."""
    return f"{getrandbits(128):032x}"


def of(request: web.BaseRequest) -> str:
    """Return the id that the client gave, or a new one if it gave none that can be taken."""
    given = request.headers.get(HEADER, "")
    return given if given and _GIVEN.fullmatch(given) else new()
