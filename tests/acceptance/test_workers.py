"""One service of several processes: what they share, and what happens when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import signal
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from api.server.sockets import listening
from tests.conftest import MASTER_KEY
from tests.support.deliveries import APP, delivery
from tests.support.processes import SECRET, TOKEN, Service, configured
from tests.support.proxy import proxied
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.support.nursery import Nursery
    from tests.support.processes import Home
    from tests.support.proxy import Proxy

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
LOST = (aiohttp.ClientError, ConnectionError)


def ended(pids: list[int]) -> bool:
    """Whether none of these processes is there, not even as one that waits for its parent."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def accepted(service: Service, body: bytes, secret: str) -> bool:
    """Whether it is taken; a process that has yet to begin says 503."""
    return await service.post(body, secret) == 200


async def test_a_process_that_dies_is_replaced(home: Home) -> None:
    """Whichever is killed, the others go on, it comes back, and nothing acknowledged is lost."""
    secret = home.secret
    async with home.serving("--workers", "2") as service:
        first = service.children()
        assert len(first) == 3
        sent = 0

        async def replaced(pid: int) -> bool:
            nonlocal sent
            with contextlib.suppress(*LOST):  # the platform sends it again
                assert await service.post(delivery(f"u{sent}"), secret) in {200, 503}
                sent += 1
            children = service.children()
            return pid not in children and len(children) == 3

        for pid in first:
            os.kill(pid, signal.SIGKILL)
            await until(partial(replaced, pid))
        path = f"/v1/applications/{APP}/users/u{{}}"
        for n in range(sent):
            await until(partial(accepted, service, delivery(f"u{n}"), secret))
        assert (await service.get(f"{path.format(0)}?min_position=0:{sent}")).status == 200
        heads = (await service.get("/v1/status")).body["heads"]
        assert heads[0]["position"] == f"0:{sent}", "lost or doubled"
        last = service.children()
        assert await service.stop(signal.SIGTERM) == 0
        assert ended(last)


def variable(pid: int, name: str) -> str:
    """Return what a process was given in its environment."""
    given = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(one.split("=", 1) for one in given if one)[name]


async def test_processes_end_with_their_supervisor(home: Home) -> None:
    """A supervisor that is killed leaves neither processes nor files behind."""
    async with home.serving("--workers", "2") as service:
        left = service.children()
        metrics = Path(variable(left[0], "PROMETHEUS_MULTIPROC_DIR"))
        await until(metrics.exists)
        await service.stop(signal.SIGKILL)
        await until(lambda: ended(left))
        await until(lambda: not metrics.exists())
    async with home.serving() as service:
        assert (await service.get("/health/ready")).status == 200


@WORKERS
async def test_requests_in_flight_are_answered(home: Home, workers: str) -> None:
    """A delivery that is being received when the service is told to stop gets its 200."""
    async with home.serving("--workers", workers, "--no-projector") as service:
        host, port = service.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = b'{"event": {"name": "ping"}}'
        head = f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n" + body[:5])
        assert b"100 Continue" in await reader.readline(), "not in flight yet"
        await reader.readline()
        service.process.send_signal(signal.SIGTERM)
        await until(lambda: refused(host, int(port)))
        writer.write(body[5:])
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert await service.stop() == 0


async def refused(host: str, port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionError:
        return True
    writer.transport.abort()
    return False


@WORKERS
async def test_secrets_are_read_again(made_home: Home, workers: str) -> None:
    """After SIGHUP the secrets in the files count; files that are wrong change nothing."""
    async with made_home.serving("--workers", workers) as service:
        file, token_file = made_home.folder / "webhook-secret", made_home.folder / "api-token"
        old, new = file.read_text().strip(), "another-secret-of-the-tests"
        assert await service.post(delivery(), old) == 200

        async def count(secret: str) -> bool:
            # Several connections, to meet each of the processes.
            return {await service.post(delivery(), secret) for _ in range(8)} == {200}

        file.write_text(f"{new},{old}")
        token_file.write_text("another-token-of-the-tests")
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: count(new))
        assert await count(old)
        assert (await service.get("/v1/status", "another-token-of-the-tests")).status == 200
        assert (await service.get("/v1/status")).status == 401
        file.write_text("")
        service.process.send_signal(signal.SIGHUP)
        log = made_home.folder.with_suffix(".log")
        await until(lambda: "secrets not renewed" in log.read_text())
        assert await count(new)
        file.write_text(new)
        service.process.send_signal(signal.SIGHUP)

        async def refused() -> bool:
            return {await service.post(delivery(), old) for _ in range(8)} == {401}

        await until(refused)
        assert (await made_home.run("rotate-master-key", "--prepare")).code == 0
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: log.read_text().count("secrets renewed") == 3)
        assert (await made_home.run("rotate-master-key")).code == 0
        users = map("after the rotation {}".format, itertools.count())

        async def taken() -> bool:
            bodies = [delivery(next(users)) for _ in range(8)]
            return {await service.post(body, new) for body in bodies} == {200}

        await until(taken)
        assert (await made_home.run("rotate-master-key")).code == 1, "there is no previous key now"


async def test_secrets_while_the_database_starts(made_home: Home) -> None:
    """SIGHUP does not end a service that is still waiting for its database."""
    lock = (made_home.folder / "postgres.start.lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = await made_home.start("serve", "--port", "0", "--workers", "2")
    assert process.stderr
    assert process.stdout
    await _line(process.stderr, b"another process is starting")
    process.send_signal(signal.SIGHUP)
    await _line(process.stderr, b"secrets renewed")
    lock.close()
    await _line(process.stdout, b" serves at ")
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def _line(stream: asyncio.StreamReader, words: bytes) -> None:
    while line := await stream.readline():
        if words in line:
            return
    pytest.fail(f"it ended without a line of {words!r}")


async def test_a_projector_alone_reads_secrets_again(home: Home) -> None:
    """SIGHUP does not end it, and a key that is not one changes nothing."""
    key = home.folder.with_name("key")
    key.write_text(home.environ["USERLOG_MASTER_KEY"])
    where = home.where(USERLOG_MASTER_KEY="", USERLOG_MASTER_KEY_FILE=str(key))
    log = home.folder.with_suffix(".log")
    with log.open("ab") as stderr:
        process = await where._begin("project", stderr=stderr)
    await until(lambda: "projecting" in log.read_text())
    process.send_signal(signal.SIGHUP)
    await until(lambda: "secrets renewed" in log.read_text())
    key.write_text("none")
    process.send_signal(signal.SIGHUP)
    await until(lambda: "secrets not renewed" in log.read_text())
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


@asynccontextmanager
async def starting(home: Home, *options: str) -> AsyncGenerator[Service]:
    """Start to serve, without waiting for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home.folder.with_suffix(".log")
    with log.open("ab") as stderr:
        process = await home._begin("serve", "--port", str(port), *options, stderr=stderr)
    service = Service(process, f"http://127.0.0.1:{port}", TOKEN)
    try:
        await until(lambda: "waiting for the database" in log.read_text())
        yield service
    finally:
        await service.stop(signal.SIGKILL)


@pytest.fixture
def server_home(own_home: Home, nursery: Nursery) -> Callable[..., Home]:
    """Make homes on a database behind a proxy."""

    def make(proxy: Proxy, key: bytes = MASTER_KEY) -> Home:
        return replace(own_home.where(**configured(proxy.url, key)), nursery=nursery)

    return make


@WORKERS
async def test_a_database_that_is_away_is_waited_for(
    server_home: Callable[..., Home], database_url: str, workers: str
) -> None:
    """The service starts without its database, says so to everybody, and begins when it comes."""
    async with proxied(database_url) as proxy:
        proxy.cut()
        async with starting(server_home(proxy), "--workers", workers) as service:
            assert (await service.get("/health/live")).status == 200
            ready = await service.get("/health/ready")
            assert (ready.status, ready.body["title"]) == (503, "Not available now")
            assert "waits for its database" in ready.body["detail"]
            assert await service.post(delivery(), SECRET) == 503
            proxy.restore()

            async def taken() -> bool:
                # Several connections, to meet each of the processes.
                try:
                    return {await service.post(delivery(), SECRET) for _ in range(8)} == {200}
                except LOST:  # one that had no request when the service began is closed
                    return False

            await until(taken)
            assert (await service.get("/health/ready")).status == 200
            assert (await service.get("/v1/status")).body["heads"][0]["position"] == "0:1"
            assert await service.stop(signal.SIGTERM) == 0


@WORKERS
async def test_waiting_can_be_stopped(
    server_home: Callable[..., Home], empty_database_url: str, workers: str
) -> None:
    """A service that waits for its database ends when it is told to."""
    async with proxied(empty_database_url) as proxy:
        proxy.cut()
        async with starting(server_home(proxy), "--workers", workers) as service:
            assert await service.stop(signal.SIGTERM) == 0


async def test_processes_that_can_not_start(
    server_home: Callable[..., Home], database_url: str
) -> None:
    """A reason that does not pass ends the service, with the reason and nobody left behind."""
    async with proxied(database_url) as proxy:
        home = server_home(proxy)
        async with home.serving() as service:
            assert await service.post(delivery(), SECRET) == 200
        wrong = server_home(proxy, b"another master key, of 32 bytes!")
        done = await wrong.run("serve", "--port", "0", "--workers", "2")
        assert done.code == 1
        assert "master key" in done.err
        assert done.out == ""


@WORKERS
async def test_a_port_in_use(home: Home, workers: str) -> None:
    """A port that another service has is named, before anything is started."""
    with listening("127.0.0.1", 0, int(workers)) as ((one, *_), *_):  # as a service opens it
        port = str(one.getsockname()[1])
        for count in ("1", "2"):
            done = await home.run("serve", "--port", port, "--workers", count)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert f"port {port}" in done.err
            assert "in use" in done.err
