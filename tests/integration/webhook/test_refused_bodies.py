"""A body that is refused by its head: whoever sends it all the same gets to know why."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from api.server import connections
from api.web.problems import Problem
from api.webhook.verify import HEADER
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.serving import Service

MEBIBYTE = 1 << 20
# More than the kernel keeps of what nobody reads.
MUCH = 16 * MEBIBYTE
PIECE = 1 << 16
SIGNED = f"{HEADER}: {64 * '0'}\r\n"


def send_first(connection: socket.socket, body: bytes) -> bytes:
    """Read nothing before everything was sent."""
    connection.sendall(body)
    return connection.recv(PIECE)


def look_meanwhile(connection: socket.socket, body: bytes) -> bytes:
    """Stop sending as soon as there is an answer."""
    rest = memoryview(body)
    while rest:
        readable, _, _ = select.select([connection], [connection], [], PATIENCE_S)
        if readable:
            break
        rest = rest[connection.send(rest[:PIECE]) :]
    return connection.recv(PIECE)


def posted(
    service: Service, head: str, length: int, send: Callable[[socket.socket, bytes], bytes]
) -> int:
    """Post on a connection that waits until it can send; return the status."""
    lines = f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_S) as connection:
        connection.sendall(lines.encode())
        return int(send(connection, bytes(length)).split()[1])


def refused_head(length: int) -> bytes:
    """Announce a body that is too large."""
    return f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("send", [send_first, look_meanwhile])
async def test_the_answer_is_read(
    database_url: str, send: Callable[[socket.socket, bytes], bytes]
) -> None:
    """The answer arrives, whether it is looked for while the body is sent or only then."""
    async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
        for head, length, status in (
            ("", MEBIBYTE, 401),
            (SIGNED, MEBIBYTE, 401),
            ("", MUCH, 413),
            (SIGNED, MUCH, 413),
            ("Content-Encoding: gzip\r\n", MUCH, 415),
        ):
            assert await asyncio.to_thread(posted, service, head, length, send) == status


async def test_the_connection_ends_with_the_body(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has sent all of a refused body is not waited for, and keeps no place of another."""
    monkeypatch.setattr(connections, "_LINGER_S", 2 * PATIENCE_S)

    async def each_in_turn() -> None:
        async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
            for _ in range(40):
                reader, writer = await service.connect()
                writer.write(refused_head(2 * MEBIBYTE))
                writer.write(bytes(2 * MEBIBYTE))
                async with asyncio.timeout(PATIENCE_S):
                    assert b" 413 " in await reader.read()
                writer.close()

    # On the loop of the service, which reads as much as there is in one round.
    await asyncio.to_thread(uvloop.run, each_in_turn())


async def refused_in_part(
    service: Service,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a piece of a body that is refused, and read the first line of the answer."""
    reader, writer = await service.connect()
    writer.write(refused_head(MUCH))
    assert b" 413 " in await reader.readline()
    writer.write(bytes(PIECE))
    return reader, writer


async def test_a_sender_who_stops(database_url: str) -> None:
    """The connection of who sends no more of a refused body is ended, but not by a reset."""
    async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
        reader, writer = await refused_in_part(service)
        async with asyncio.timeout(PATIENCE_S):
            assert b"too large" in (await reader.read()).lower()
        writer.close()


async def test_the_service_stops_meanwhile(database_url: str) -> None:
    """Nor is it reset when the service stops."""
    async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
        reader, writer = await refused_in_part(service)
    async with asyncio.timeout(PATIENCE_S):
        assert b"too large" in (await reader.read()).lower()
    writer.close()


async def test_no_file_for_the_rest(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is refused alike when the system gives no more files."""

    def no_more(file: int) -> int:
        raise OSError(errno.EMFILE, file)

    monkeypatch.setattr(os, "dup", no_more)
    async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
        assert await asyncio.to_thread(posted, service, "", 2 * MEBIBYTE, look_meanwhile) == 413


async def test_a_sender_who_never_ends(database_url: str) -> None:
    """A refused body that does not end is given up, however many there are of them."""
    head = refused_head(MUCH)
    async with serving(database_url, body_bytes_max=MEBIBYTE) as service:
        senders = [await service.connect() for _ in range(40)]
        for _, writer in senders:
            writer.write(head + bytes(PIECE))
        for reader, writer in senders:
            async with asyncio.timeout(PATIENCE_S):
                assert b" 413 " in await reader.readline()
                with contextlib.suppress(ConnectionError):  # there is more than it has read
                    while await reader.read(PIECE):
                        pass
            writer.close()
        assert (await service.get("/health/live")).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({HEADER: 64 * "0"}, 401), ({}, 401), ({HEADER: "1", "Content-Encoding": "gzip"}, 415)],
    ids=["wrong signature", "no signature", "encoded"],
)
async def test_nothing_is_left_of_it(
    database_url: str, headers: dict[str, str], status: int
) -> None:
    """What was read of a refused body goes with the answer, and waits for no garbage collector."""
    async with serving(database_url) as service:
        await service.get("/health/live")  # which makes what is made once
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                answer = await service.call(
                    "POST", "/webhooks/fynd", data=bytes(3 * PIECE), headers=headers
                )
                assert answer.status == status
            left = [one for one in gc.get_objects() if isinstance(one, Problem)]
        finally:
            gc.enable()
        assert left == []
