"""Connects to whichever host of a URL is the primary, giving each a moment of its own.

The driver's own time limit covers all hosts of a URL together: a first one that hangs uses it up,
and the others are never asked.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventstore.errors import LoginError
from eventstore.postgres.url import EXAMPLE, each_host, files, for_driver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

HOST_TIMEOUT_S = 2.0
# The driver's error for a URL is a ValueError too.
_BAD_URL = (ValueError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError)
# What the driver says where a server answers "no", which is no error of its own class.
_NO_TLS = "rejected SSL upgrade"
_connect: Callable[..., Awaitable[Connection]] = asyncpg.connect


async def connect(url: str, *, timeout: float, **options: Any) -> Connection:  # noqa: ANN401, ASYNC109 - as the driver's
    """Connect to the first host that is there and takes writes; the last one's error if none is.

    The timeout, in seconds, is for a single host; several have HOST_TIMEOUT_S each, or less.
    LoginError if the URL is not one, or has a parameter that the server does not know.
    """
    for name, path in files(url).items():
        if not os.access(path, os.R_OK):
            raise LoginError(f"{name} in USERLOG_DATABASE_URL names a file that can't be read")
    try:
        return await _connect_first(url, {**options, "timeout": timeout})
    except ssl.SSLError as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise LoginError(
            f"no TLS connection to the database can be made ({why}); check sslmode and sslrootcert"
            " in USERLOG_DATABASE_URL, and the server's certificate"
        ) from error
    except ConnectionError as error:
        if _NO_TLS not in str(error):
            raise
        raise LoginError(
            "the database server does not offer TLS, which sslmode in USERLOG_DATABASE_URL asks for"
        ) from error
    except _BAD_URL as error:
        raise LoginError(
            f"USERLOG_DATABASE_URL can't be used ({type(error).__name__}); example: {EXAMPLE}"
        ) from error


async def _connect_first(url: str, options: dict[str, Any]) -> Connection:
    *others, last = each_host(for_driver(url))
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
