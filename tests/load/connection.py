"""One connection of a client that asks little of the processor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class Connection:
    """One connection, and one request on it at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def closed(self) -> bool:
        """Whether the service has ended it, as it may when nothing was sent for long."""
        return self._writer.is_closing() or self._reader.at_eof()

    async def send(self, request: bytes) -> tuple[int, bytes, float]:
        """Send a request; return status, body and how many seconds the answer took."""
        began = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        return int(head[9:12]), body, time.perf_counter() - began

    def abort(self) -> None:
        """End it at once."""
        self._writer.transport.abort()
