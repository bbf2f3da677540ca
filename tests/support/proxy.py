"""Stands between the code and PostgreSQL, so that a test can take the server away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Proxy:
    """Stands between the code and the server, so that a test can take the server away."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._host = query["host"][0] if "host" in query else parts.hostname or "localhost"
        self._port = int(query["port"][0]) if "port" in query else parts.port or 5432
        self._path = parts.path
        self._user = query.get("user", [parts.username or "postgres"])[0]
        self._password = parts.password
        # Where the code connects to.
        self.url = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._away = False
        # While true, what the server answers does not reach the client.
        self.deaf = False

    async def listen(self) -> str:
        """Begin to let clients in; return the URL for them."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        secret = f":{self._password}" if self._password else ""
        return f"postgresql://{self._user}{secret}@127.0.0.1:{port}{self._path}"

    async def close(self) -> None:
        """Let nobody in any more."""
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def cut(self) -> None:
        """Take the server away: drop the connections, and every new one at once."""
        self._away = True
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        """Bring the server back."""
        self._away = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            writer.transport.abort()
            return
        there, back = await self._connect()
        self._writers |= {writer, back}
        forth = asyncio.create_task(self._pump(reader, back, answers=False))
        await self._pump(there, writer, answers=True)
        await forth
        self._writers -= {writer, back}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not (answers and self.deaf):
                    writer.write(data)
                    await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncGenerator[Proxy]:
    """Put a proxy before a server."""
    proxy = Proxy(url)
    proxy.url = await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()
