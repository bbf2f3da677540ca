"""The service that someone would write by hand: aiohttp, uvloop, a pool, and what is needed.

    python benchmarks/handwritten.py DATABASE_URL CONNECTIONS

POST /insert verifies, decodes and inserts one row. POST /verified answers when it has verified and
decoded, POST /read when it has the body. GET /row/ID answers with one row, found by its key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uvloop
from aiohttp import web
from common import open_plain_pool
from load import SECRET
from plain import INSERT

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool

BY_KEY = "SELECT payload FROM plain WHERE id = $1"


class Handlers:
    """What the routes call."""

    def __init__(self, pool: Pool) -> None:
        """The table must be there."""
        self._pool = pool

    async def insert(self, request: web.Request) -> web.Response:
        """Keep a delivery of one user."""
        body = await request.read()
        found = _verified(request, body)
        user, meta = found["payload"][0]["user"], found["meta"]
        await self._pool.execute(
            INSERT,
            meta["application_id"][0],
            user["_id"],
            meta["event"]["type"],
            datetime.fromtimestamp(meta["created_timestamp"] / 1000, UTC),
            body.decode(),
        )
        return web.json_response({"accepted": 1})

    async def verified(self, request: web.Request) -> web.Response:
        """Do as much as can be done without keeping it."""
        _verified(request, await request.read())
        return web.json_response({"accepted": 1})

    async def read(self, request: web.Request) -> web.Response:
        """Do nothing with it."""
        await request.read()
        return web.json_response({"accepted": 1})

    async def row(self, request: web.Request) -> web.Response:
        """Answer with a payload as it is stored."""
        payload = await self._pool.fetchval(BY_KEY, int(request.match_info["id"]))
        return web.Response(text=payload, content_type="application/json")


def _verified(request: web.Request, body: bytes) -> dict[str, Any]:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers.get("x-fp-signature", "")):
        raise web.HTTPUnauthorized
    found: dict[str, Any] = json.loads(body)
    return found


async def serve(url: str, connections: int) -> None:
    """Serve until killed; the port is printed."""
    handlers = Handlers(await open_plain_pool(url, connections))
    app = web.Application()
    app.add_routes(
        [
            web.post("/insert", handlers.insert),
            web.post("/verified", handlers.verified),
            web.post("/read", handlers.read),
            web.get("/row/{id}", handlers.row),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
