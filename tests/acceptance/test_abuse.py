"""Who sends what no client sends, or nothing, or without end, harms neither others nor the log.

Each test's service is a process of its own. `MARK` stands for personal data: it is in everything
that is sent and must be in nothing that is answered or logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import select
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from api.config.settings import Settings
from api.server.unready import unready
from api.webhook.verify import sign
from tests.support.deliveries import delivery
from tests.support.processes import SECRET
from tests.support.raw import (
    CHUNKED,
    HEAD,
    LIVE,
    MARK,
    NO_HTTP,
    Connection,
    connect,
    damaged,
    exchange,
    leave,
    read,
    status,
    talk,
)
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.support.processes import Home, Service

MEGABYTES = 1 << 20
# A signature that was not checked yet.
MADE_UP = b"x-fp-signature: " + 64 * b"0" + b"\r\n"


@pytest.fixture
def make_service_home(home: Home) -> Callable[..., Home]:
    """Make homes that log everything, on one database."""

    def make(*, open_files: str = "", **settings: object) -> Home:
        more = {f"USERLOG_{name.upper()}": str(value) for name, value in settings.items()}
        limited = ("sh", "-c", f'ulimit {open_files}; exec "$@"', "sh") if open_files else ()
        return home.by(*limited, *home.program).where(USERLOG_LOG_LEVEL="debug", **more)

    return make


@contextlib.asynccontextmanager
async def connections(service: Service, count: int) -> AsyncGenerator[list[Connection]]:
    """Hold connections open."""
    opened = [await connect(service) for _ in range(count)]
    try:
        yield opened
    finally:
        for _, writer in opened:
            await leave(writer)


def assert_quotes_nothing(answer: bytes, expected: int) -> None:
    """An answer is a problem document, carries an id, and says nothing of what was sent."""
    assert status(answer) == expected, answer
    head, _, document = answer.partition(b"\r\n\r\n")
    assert json.loads(document)["status"] == expected
    assert b"x-request-id: " in head.lower()
    assert b"asha" not in answer


def logged(home: Home) -> list[dict[str, object]]:
    """Return the lines of the log: none holds what was sent, an error, or the way to one."""
    text = home.folder.with_suffix(".log").read_text()
    assert "asha" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [one for one in lines if one["level"] == "error" or "places" in one] == []
    return lines


def memory(service: Service, which: str = "VmRSS") -> int:
    """How many bytes of memory a service uses, or has used (VmHWM)."""
    about = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(about.partition(f"{which}:")[2].split()[0]) * 1024


async def assert_answers(service: Service) -> None:
    """Others are answered, at the latest when they ask again."""

    async def taken() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return await service.post(delivery(), SECRET) == 200
        return False

    async def ready() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return (await service.get("/health/ready")).status == 200
        return False

    await until(taken)
    await until(ready)


async def test_what_is_no_http(make_service_home: Callable[..., Home]) -> None:
    """It is refused, in one line of the log for all of a kind, and nothing of it is quoted."""
    home = make_service_home()
    async with home.serving() as service:
        answers = [await talk(service, request) for request in NO_HTTP.values()]
        for answer in answers:
            assert_quotes_nothing(answer, 400)
        refused = [one for one in logged(home) if one["event"] == "malformed request"]
        kinds = [one["problem"] for one in refused]
        assert 1 < len(kinds) == len(set(kinds)) < len(NO_HTTP)
        for line in refused:
            about = {"event", "level", "timestamp", "problem", "request_id", "times"}
            assert set(line) == about
            assert str(line["request_id"]).encode() in b"".join(answers)
        await assert_answers(service)


async def test_what_is_refused_by_its_head(make_service_home: Callable[..., Home]) -> None:
    """An expectation that is not known, and a packed body where none is wanted."""
    home = make_service_home()
    async with home.serving() as service:
        close = b"Connection: close\r\n"
        expectation = HEAD + close + b"Content-Length: 1\r\nExpect: " + MARK + b"\r\n\r\n"
        assert_quotes_nothing(await talk(service, expectation), 417)
        body = close + b"Content-Encoding: gzip\r\nContent-Length: 22\r\n\r\n" + MARK
        unwanted = b"POST /v1/status HTTP/1.1\r\nHost: x\r\n" + body
        assert_quotes_nothing(await talk(service, unwanted), 405)
        logged(home)


async def test_a_body_that_nobody_wanted_and_is_none(
    make_service_home: Callable[..., Home],
) -> None:
    """What comes after the answer, and can't be read, is no defect."""
    home = make_service_home()
    async with home.serving() as service:
        reader, writer = await connect(service)
        writer.write(CHUNKED.replace(b"/webhooks/fynd", b"/v1/status"))
        assert b" 405 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(MARK + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await read(reader)
        await leave(writer)
        logged(home)


async def test_headers_that_are_no_text(make_service_home: Callable[..., Home]) -> None:
    """They keep no delivery from being kept, and what they hold comes back as well as it can."""
    home = make_service_home()
    body = b"no JSON"
    signed = b"x-fp-signature: " + sign(body, SECRET).encode() + b"\r\n"
    length = b"Connection: close\r\nContent-Length: 7\r\n\r\n"
    async with home.serving() as service:
        for name in (b"User-Agent", b"Content-Type", b"x-fp-event-id"):
            answer = await talk(service, HEAD + signed + name + b": \xffabc\r\n" + length + body)
            assert (status(answer), b'"quarantined":1' in answer) == (200, True)
        for name in (b"x-fp-signature: \xff", b"Authorization: Bearer \xff"):
            assert_quotes_nothing(await talk(service, HEAD + name + b"\r\n" + length + body), 401)
        assert (await service.get("/v1/status")).body["quarantined"] == 1
        logged(home)


async def test_mutated_requests(make_service_home: Callable[..., Home]) -> None:
    """However a request is damaged, there is an answer or none, but no failure and no quotation."""
    home = make_service_home(request_timeout_s=3, idle_timeout_s=3)  # a busy machine answers too
    chance = random.Random(0)
    whole = [
        HEAD + b"Content-Length: 22\r\nUser-Agent: " + MARK + b"\r\n\r\n" + MARK,
        CHUNKED + b"16\r\n" + MARK + b"\r\n0\r\n\r\n",
        b"GET /v1/applications/a/users?email=" + MARK + b" HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer token\r\nX-Request-Id: 1\r\nAccept: */*\r\n\r\n",
    ]

    async def send(request: bytes) -> None:
        answer = await talk(service, request)
        assert status(answer) < 500, request
        assert b"asha" not in answer, request

    async with home.serving() as service:
        for _ in range(2):
            requests = [damaged(chance.choice(whole), chance) for _ in range(150)]
            await asyncio.gather(*map(send, requests))
        logged(home)
        await assert_answers(service)


async def test_slow_heads(make_service_home: Callable[..., Home]) -> None:
    """Whoever sends a head byte by byte, or stops in the middle of one, is hung up on."""
    home = make_service_home(idle_timeout_s=3)  # aiohttp must come to wait for the head before
    async with home.serving() as service:
        assert await talk(service, HEAD + b"A: " + MARK) == b""
        slow = [asyncio.create_task(trickle(service)) for _ in range(150)]
        await assert_answers(service)
        assert set(await asyncio.gather(*slow)) == {b""}
        logged(home)


async def trickle(service: Service) -> bytes:
    """Send a head byte by byte, never done, until the service hangs up."""
    reader, writer = await connect(service)
    answer = asyncio.create_task(read(reader))
    writer.write(HEAD + b"A: " + MARK)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (await asyncio.wait((answer,), timeout=0.05))[0]:
                writer.write(b"x")
            return await answer
    finally:
        await leave(writer)


async def test_endless_heads(make_service_home: Callable[..., Home]) -> None:
    """A head that goes on and on is refused before it takes much memory."""
    home = make_service_home()
    async with home.serving() as service:
        before = memory(service)
        few_and_long = itertools.repeat(b"A: " + MARK + b"x" * 8_000 + b"\r\n", 63)
        many = itertools.repeat(b"A: " + MARK + b"\r\n")
        for headers in (few_and_long, many):
            answer = await exchange(await connect(service), itertools.chain([HEAD], headers))
            assert status(answer) in {
                0,
                400,
            }  # what is still being sent may keep it from being read
        held = HEAD + 7 * (b"A: " + MARK + b"x" * 8_000 + b"\r\n")
        async with connections(service, 200) as opened:
            for _, writer in opened:
                writer.write(held)
                await writer.drain()
            await assert_answers(service)
        assert memory(service, "VmHWM") - before < 100 * MEGABYTES
        logged(home)


async def test_endless_bodies(make_service_home: Callable[..., Home]) -> None:
    """A body without an end is refused at the limit, and never kept in memory."""
    home = make_service_home(request_timeout_s=0.5)
    chunk = b"%x\r\n" % (1 << 16) + bytes(1 << 16) + b"\r\n"
    unwanted = CHUNKED.replace(b"/webhooks/fynd", b"/v1/status")
    signed = CHUNKED.replace(b"Host: x\r\n", b"Host: x\r\n" + MADE_UP)
    refused = {
        "unsigned": (CHUNKED, chunk, {401}),
        "large chunks": (signed, chunk, {408, 413}),  # a busy machine takes its time
        "small chunks": (signed, b"1\r\nx\r\n" * 10_000, {408, 413}),
        "where no body is wanted": (unwanted, chunk, {405}),
        "a chunk's extension": (CHUNKED + b"1;", b"x" * 10_000, {408}),
        "trailers": (CHUNKED + b"0\r\n", b"A: " + MARK + b"\r\n", {0, 400, 408}),
        "a length": (HEAD + b"Content-Length: 999999999999\r\n\r\n", bytes(1 << 16), {413}),
    }
    async with home.serving() as service:
        before = memory(service)

        async def send(name: str) -> None:
            head, piece, expected = refused[name]
            pieces = itertools.chain([head], itertools.repeat(piece))
            answer = await exchange(await connect(service), pieces)
            assert status(answer) in expected, name

        await asyncio.gather(*map(send, refused))
        await assert_answers(service)
        assert memory(service, "VmHWM") - before < 50 * MEGABYTES
        logged(home)


async def test_slow_bodies(make_service_home: Callable[..., Home]) -> None:
    """Bodies that never end are in nobody's way, and are given up at the deadline."""
    home = make_service_home(request_timeout_s=1)
    async with home.serving() as service, connections(service, 200) as opened:
        for _, writer in opened:
            writer.write(HEAD + b"Content-Length: 99\r\n\r\n" + MARK)
        await assert_answers(service)
        async with asyncio.timeout(PATIENCE_S):
            for reader, _ in opened:
                assert_quotes_nothing(await read(reader), 408)
        logged(home)


async def test_room_for_bodies(make_service_home: Callable[..., Home]) -> None:
    """What has come of bodies counts, not what is claimed; the slowest makes room for others."""
    limits = {"body_bytes_max": 1_000_000, "arriving_bytes_max": 1_500_000}
    home = make_service_home(**limits, request_timeout_s=60)
    claim = HEAD + MADE_UP + b"Connection: close\r\nContent-Length: 1000000\r\n\r\n"
    async with home.serving() as service, connections(service, 11) as opened:
        for _, writer in opened:
            writer.write(claim + MARK)
        assert status(await talk(service, claim, b" " * 1_000_000)) == 401
        for _, writer in opened[:2]:
            writer.write(b" " * 900_000)
        readers = [asyncio.create_task(read(reader)) for reader, _ in opened]
        async with asyncio.timeout(PATIENCE_S):
            closed, held = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        answer = closed.pop().result()
        assert_quotes_nothing(answer, 408)
        assert b"there is no room for all" in answer
        for reading in held:
            reading.cancel()
        await assert_answers(service)
        logged(home)


async def test_pipelining(make_service_home: Callable[..., Home]) -> None:
    """Requests sent without waiting are answered in order, and those not begun are not kept."""
    home = make_service_home()
    async with home.serving() as service:
        one = LIVE.replace(b"close", b"keep-alive")
        answer = await talk(service, one * 1_000 + LIVE)
        assert answer.count(b"HTTP/1.1 200 ") == 1_001
        before = memory(service)
        _, writer = await connect(service)
        with contextlib.suppress(TimeoutError):  # it stops to read as nobody reads its answers
            async with asyncio.timeout(0.5):
                while True:
                    writer.write(one * 1_000)
                    await writer.drain()
        assert memory(service) - before < 50 * MEGABYTES
        writer.transport.abort()
        await assert_answers(service)
        logged(home)


async def test_idle_connections(make_service_home: Callable[..., Home]) -> None:
    """Thousands on which nothing comes are in nobody's way, and are closed after a while."""
    room(2_500)
    home = make_service_home(open_files="-Sn 512", idle_timeout_s=2)
    async with home.serving() as service:
        before = memory(service)
        async with connections(service, 2_000) as opened:
            await assert_answers(service)
            assert memory(service) - before < 100 * MEGABYTES
            async with asyncio.timeout(PATIENCE_S):
                assert {await read(reader) for reader, _ in opened} == {b""}
        await assert_answers(service)
        logged(home)


def room(files: int) -> None:
    """Let this process open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


async def test_more_connections_than_there_may_be(make_service_home: Callable[..., Home]) -> None:
    """One too many is asked to come again if all are busy; who is inside notices nothing."""
    home = make_service_home(connections_max=50, request_timeout_s=PATIENCE_S)
    begun = b"Content-Length: 22\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    async with home.serving() as service:
        async with connections(service, 50) as opened:
            for reader, writer in opened:
                writer.write(HEAD + MADE_UP + begun)
                assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            answer = await talk(service, HEAD + b"Content-Length: 22\r\n\r\n" + MARK)
            assert_quotes_nothing(answer, 503)
            assert b"\r\nRetry-After: " in answer
            tries = [await asyncio.to_thread(send_first, service) for _ in range(5)]
            assert any(tries), "cut off while still sending"
            for _ in range(50):
                assert status(await talk(service, LIVE)) in {0, 503}
            for one in opened:
                assert status(await exchange(one, [MARK])) == 401
            await assert_answers(service)
        said = [line for line in logged(home) if line["event"] == "too many connections"]
        assert 0 < len(said) < 50, "a line for each"
        await assert_answers(service)


async def test_who_only_holds_connections(make_service_home: Callable[..., Home]) -> None:
    """They make room for others, who is idle for longest first; not who brings requests."""
    home = make_service_home(connections_max=50)
    asking = LIVE.replace(b"Connection: close\r\n", b"")
    async with home.serving() as service, connections(service, 50) as opened:
        (reader, writer), *held = opened
        for _ in range(3):
            writer.write(asking)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(15) == b'{"status":"ok"}'
            opened += [await connect(service) for _ in range(16)]
        for one, _ in held[:48]:
            async with asyncio.timeout(PATIENCE_S):
                assert await read(one) == b""
        assert not held[48][0].at_eof()
        logged(home)


def send_first(service: Service) -> bool:
    """Say whether somebody is answered who sends a delivery in parts and reads only then."""
    port = int(service.base.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answered = select.poll()
        answered.register(connection, select.POLLRDHUP)
        answered.poll(PATIENCE_S * 1_000)  # all of the answer is there already
        try:
            for part in (HEAD, b"Content-Length: 22\r\n\r\n", MARK):
                connection.sendall(part)
            return b" 503 " in connection.recv(1 << 16)
        except ConnectionError:
            return False


async def test_few_open_files(make_service_home: Callable[..., Home]) -> None:
    """Connections from outside leave room for those to the database."""
    home = make_service_home(open_files="-n 136", pool_connections_max=5)
    async with home.serving() as service:
        (said,) = [line for line in logged(home) if line["event"] == "few open files allowed"]
        assert said["connections_max"] == 51
        async with connections(service, 200), home.database() as database:

            async def answered(path: bytes) -> bool:  # those that make room have to be gone
                request = LIVE.replace(b"live", path)
                return status(await talk(service, request)) == 200

            await until(partial(answered, b"live"))
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await until(partial(answered, b"ready"))
        await assert_answers(service)
        logged(home)


async def test_no_open_files(make_service_home: Callable[..., Home]) -> None:
    """When the system gives no more files, who is inside is answered, and others later."""
    home = make_service_home()
    async with home.serving() as service, connections(service, 10) as opened:
        await assert_answers(service)
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid), before[1]))
        async with connections(service, 100):
            for one in opened:
                assert status(await exchange(one, [LIVE])) == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await assert_answers(service)
        logged(home)


def open_files(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_before_the_database_is_there() -> None:
    """The service that still waits quotes nothing either, and has the same limits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        async with unready([listening], Settings(connections_max=1)):
            for request in NO_HTTP.values():
                connection = await asyncio.open_connection("127.0.0.1", port)
                assert_quotes_nothing(await exchange(connection, [request]), 400)
            first = await asyncio.open_connection("127.0.0.1", port)
            second = await asyncio.open_connection("127.0.0.1", port)
            assert status(await exchange(second, [LIVE])) == 200
            assert await read(first[0]) == b"", "it made room"
            await leave(first[1])
