"""Returns 503 until the database is reachable: the service is live, but not ready."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from api.server.acceptor import Acceptor
from api.server.connections import Server
from api.web.middlewares import id_of, mark
from api.web.problems import unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable

    from api.config.settings import Settings

_RETRY_AFTER_S = 5
_PATIENCE_S = 1
_LOOK_S = 0.01


@contextlib.asynccontextmanager
async def unready(
    sockets: list[socket.socket], settings: Settings
) -> AsyncGenerator[Callable[[str], None]]:
    """Answer with 503 for as long as the block lasts; the sockets stay open.

    What it yields is called with how far an upgrade is, for the answers.
    """
    waiting = _Unready()
    server = Server(waiting.answer, settings)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    acceptor = Acceptor([one.dup() for one in sockets], server)
    try:
        yield waiting.reached
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


class _Unready:
    def __init__(self) -> None:
        self._detail = "the service waits for its database; send it again"

    def reached(self, text: str) -> None:
        self._detail = f"the service upgrades its database ({text}); send it again"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health/live":
            response = web.json_response({"status": "ok"})
        else:
            response = unavailable(self._detail, _RETRY_AFTER_S).response()
        mark(response.headers, id_of(request))
        response.force_close()
        return response
