"""What no client sends: bytes on a connection, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from tests.support.processes import Service

MARK = b"asha.rao%40example.com"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEAD = b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# Requests that are none.
NO_HTTP = {
    "another protocol": b"\x16\x03\x01" + MARK + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MARK,
    "a version to come": b"GET /" + MARK + b" HTTP/7.3\r\nHost: x\r\n\r\n",
    "an unknown method": MARK + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with a raw byte": b"GET /\xff" + MARK + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "half an address": b"GET http://[" + MARK + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long line": b"GET /" + 500 * MARK + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + 500 * MARK + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + 65 * (b"A: " + MARK + b"\r\n") + b"\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + MARK + b"\0\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n" + MARK + b" x: y\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: " + MARK + b"\r\nHost: x\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: " + MARK + b"\r\n\r\n1",
    "length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + MARK,
    "a chunk without a size": CHUNKED + MARK + b"\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\n" + MARK + b"\r\n",
    "many trailers": CHUNKED + b"0\r\n" + 65 * (b"A: " + MARK + b"\r\n") + b"\r\n",
}

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(service: Service) -> Connection:
    """Open a connection."""
    return await asyncio.open_connection("127.0.0.1", int(service.base.rpartition(":")[2]))


async def leave(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other side thinks of it."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def exchange(connection: Connection, sent: Iterable[bytes]) -> bytes:
    """Send on until the service has had enough; return what it answered before it hung up."""
    reader, writer = connection
    answer = asyncio.create_task(read(reader))
    try:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                for piece in sent:
                    if answer.done():
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # drain may not let others go on
            return await answer
    finally:
        await leave(writer)


async def read(reader: asyncio.StreamReader) -> bytes:
    """Read as far as the other side lets."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            answer += data
    return answer


async def talk(service: Service, *sent: bytes) -> bytes:
    """Send this on a connection of its own, and return what comes back."""
    return await exchange(await connect(service), sent)


def status(answer: bytes) -> int:
    """The status of the first answer; 0 if the connection ended without one."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def damaged(request: bytes, chance: random.Random) -> bytes:
    """Change a request in a few places, but leave the mark as it is."""
    parts = request.split(MARK)
    for _ in range(chance.randint(1, 3)):
        n = chance.randrange(len(parts))
        at = chance.randrange(len(parts[n]) + 1)
        one = parts[n]
        parts[n] = chance.choice(
            (
                one[:at] + chance.randbytes(chance.randint(1, 4)) + one[at:],
                one[:at] + one[at + 1 :],
                one[:at]
                + chance.choice((b"\r\n", b"\n", b"\0", b" ", b":", b"%", b"9" * 30))
                + one[at:],
                one[:at],
            )
        )
    return MARK.join(parts)
