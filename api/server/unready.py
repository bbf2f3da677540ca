"""Returns 503 until the database is reachable: the service is live, but not ready."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from api.server.acceptor import Acceptor
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
async def unready(sockets: list[socket.socket], settings: Settings) -> AsyncGenerator[None]:
    """Answer with 503 for as long as the block lasts; the sockets stay open."""
    runner = web.ServerRunner(Server(_answer, settings), handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    server = runner.server
    assert server is not None, "it is set up"  # noqa: S101
    acceptor = Acceptor([one.dup() for one in sockets], server)
    try:
        yield
        acceptor.close()
        await _let_finish(server)
    finally:
        acceptor.close()
        await runner.cleanup()


async def _let_finish(server: web.Server) -> None:
    """Give open connections the time to send their request."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while server.connections:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(_LOOK_S)


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/health/live":
        response = web.json_response({"status": "ok"})
    else:
        detail = "the service waits for its database; send it again"
        response = unavailable(detail, _RETRY_AFTER_S).response()
    response.force_close()
    return response
