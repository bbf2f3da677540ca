"""Answers while the database is not there yet: the service lives, but is not ready."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from api.server.acceptor import Entrance
from api.server.connections import Server
from api.web.problems import unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator

    from api.config.settings import Settings

_RETRY_AFTER_S = 5
_PATIENCE_S = 1
_LOOK_S = 0.01


@contextlib.asynccontextmanager
async def lobby(sockets: list[socket.socket], settings: Settings) -> AsyncGenerator[None]:
    """Answer everything with 503 for as long as the block lasts; the sockets stay open."""
    runner = web.ServerRunner(Server(_wait, settings), handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    server = runner.server
    assert server is not None, "it is set up"  # noqa: S101
    entrance = Entrance([one.dup() for one in sockets], server)
    try:
        yield
        entrance.close()
        await _leave(server)
    finally:
        entrance.close()
        await runner.cleanup()


async def _leave(server: web.Server) -> None:
    """Give those inside the time to ask."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while server.connections:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_LOOK_S)


async def _wait(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/health/live":
        response = web.json_response({"status": "ok"})
    else:
        detail = "the service is starting and waits for its database; send it again"
        response = unavailable(detail, _RETRY_AFTER_S).response()
    response.force_close()
    return response
