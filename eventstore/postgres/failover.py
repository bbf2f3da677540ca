"""Connects to whichever host of a URL is the primary, giving each a moment of its own.

The driver's own time limit covers all hosts of a URL together: a first one that hangs uses it up,
and the others are never asked.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from eventstore.errors import LoginError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

HOST_TIMEOUT_S = 2.0
# The driver's error for a URL is a ValueError too.
_BAD_URL = (ValueError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError)
_connect: Callable[..., Awaitable[Connection]] = asyncpg.connect


def each_host(url: str) -> list[str]:
    """Split a URL of several hosts (`a:5432,b:5432`, or `?host=a,b&port=1,2`) into one of each."""
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")
    netlocs = [at[0] + at[1] + host for host in at[2].split(",")]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts, ports = (query.get(name, "").split(",") for name in ("host", "port"))
    if len(ports) == 1:
        ports *= len(hosts)
    if len(netlocs) > 1 or len(hosts) == 1:
        return [urlunsplit(parts._replace(netloc=netloc)) for netloc in netlocs]
    named = [
        {**query, **{k: v for k, v in (("host", host), ("port", port)) if v}}
        for host, port in zip(hosts, ports, strict=False)
    ]
    return [urlunsplit(parts._replace(query=urlencode(one, safe="/"))) for one in named]


async def connect(url: str, *, timeout: float, **options: Any) -> Connection:  # noqa: ANN401, ASYNC109 - as the driver's
    """Connect to the first host that is there and takes writes; the last one's error if none is.

    The timeout, in seconds, is for a single host; several have HOST_TIMEOUT_S each, or less.
    LoginError if the URL is not one, or has a parameter that the server does not know.
    """
    try:
        return await _connect_first(url, {**options, "timeout": timeout})
    except _BAD_URL as error:
        raise LoginError(
            f"USERLOG_DATABASE_URL can't be used ({type(error).__name__});"
            " example: postgresql://user:password@host:5432/database"
        ) from error


async def _connect_first(url: str, options: dict[str, Any]) -> Connection:
    *others, last = each_host(url)
    if not others:
        return await _connect(url, **options)
    options["timeout"] = min(options["timeout"], HOST_TIMEOUT_S)
    options["target_session_attrs"] = "primary"
    for one in others:
        with contextlib.suppress(
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InternalClientError
        ):
            return await _connect(one, **options)
    return await _connect(last, **options)
