"""Bodies that are arriving: who has to go when there are too many."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from api.webhook import arriving
from api.webhook.verify import HEADER, sign
from tests.support.deliveries import delivery
from tests.support.serving import SECRET, serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.serving import Service

    Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MADE_UP = "0" * 64


@contextlib.asynccontextmanager
async def half_sent(
    service: Service, count: int, length: int = 100, signature: str = MADE_UP, part: bytes = b"{"
) -> AsyncGenerator[list[Connection]]:
    """Announce bodies, and send a part of each."""
    opened: list[Connection] = []
    head = f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\n{HEADER}: {signature}\r\n"
    try:
        for _ in range(count):
            reader, writer = await service.connect()
            opened.append((reader, writer))
            writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode() + part)
            await writer.drain()
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def status(connection: Connection) -> int:
    """Return the status of what is answered."""
    async with asyncio.timeout(PATIENCE_S):
        return int((await connection[0].readline()).split()[1])


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge bodies from their beginning on."""
    monkeypatch.setattr(arriving, "_GRACE_S", 0)


async def test_the_slowest_makes_room(database_url: str, no_grace: None) -> None:
    """Of too many bodies the one that brought least is closed, and the others arrive."""
    body = delivery("slow", first_name="x" * 10_000)
    signature = sign(body, SECRET)
    async with (
        serving(database_url, arriving_max=5) as service,
        half_sent(service, 4) as held,
        half_sent(service, 1, len(body), signature, body[:5_000]) as (honest,),
        half_sent(service, 3) as more,
    ):
        assert [await status(one) for one in held[:3]] == [408] * 3
        honest[1].write(body[5_000:])
        assert await status(honest) == 200
        assert not any(reader.at_eof() for reader, _ in more)


async def test_bytes_are_bounded(database_url: str, no_grace: None) -> None:
    """Of too many bytes those go that came most slowly; a whole delivery needs no room."""
    limits: dict[str, Any] = {"arriving_bytes_max": 300_000, "body_bytes_max": 200_000}
    async with (
        serving(database_url, **limits) as service,
        half_sent(service, 1, 200_000, part=b" " * 1_000) as (slow,),
        half_sent(service, 2, 200_000, part=b" " * 149_900) as _,
    ):
        assert await status(slow) == 408
        assert (await service.post(delivery())).body["accepted"] == 1


async def test_without_a_signature_little_is_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may bring a ping, whole and at once, and nothing else."""
    async with serving(database_url) as service:
        ping = b'{"event": {"name": "ping"}}'
        assert (await service.post(ping, None)).status == 200
        assert (await service.post(ping, MADE_UP)).status == 200
        assert (await service.post(ping + b" " * 5_000, None)).status == 401
        for odd in (b"[" * 4_096, b"\xff" * 4_096, b'{"event":' * 400):
            assert (await service.post(odd, None)).status == 401
        chunked = b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        parts = b"1000\r\n" + b" " * 4096 + b"\r\n1\r\n \r\n"
        assert (await service.raw(chunked, parts))[0] == 401
        # It is refused by its head: the rest need not be sent.
        reader, writer = await service.connect()
        writer.write(b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
        assert await status((reader, writer)) == 401
        writer.close()
        async with half_sent(service, 1, signature="no signature at all") as (slow,):
            assert await status(slow) == 408, "after a second"
