"""What is answered to requests that make no sense: a problem that says what to do instead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from multidict import MultiDict

from tests.support.deliveries import APP, SAMPLE_USER, SAMPLES
from tests.support.serving import AUTH, assert_problem, serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.server import Server
    from tests.support.serving import Service

USERS, STATS = f"/v1/applications/{APP}/users", f"/v1/applications/{APP}/stats"
USER = f"{USERS}/{SAMPLE_USER}"
READS = (USER, f"{USER}/history", USERS, STATS, "/v1/events", "/v1/status", "/metrics")


@pytest.fixture(scope="module")
async def service(server: Server) -> AsyncIterator[Service]:
    """A service with a user, which no test changes."""
    async with server.database(1) as url, serving(url) as running:
        await running.post(SAMPLES[0])
        await running.catch_up()
        yield running


async def test_given_twice(service: Service) -> None:
    """A parameter that is given twice is refused by name: none of its values is the right one."""
    for path, name, value in (
        (USER, "valid_at", "0"),
        (f"{USER}/history", "limit", "1"),
        (USERS, "email", "a@b.c"),
        (STATS, "from", "2023-06-13"),
        ("/v1/events", "after", "0:1"),
        ("/v1/status", "x", ""),
    ):
        query = MultiDict([(name, value), (name, value)])
        answer = await service.call("GET", path, params=query, headers=AUTH)
        assert_problem(answer, 400, name)


async def test_added_to_an_open_path(service: Service) -> None:
    """Whatever the platform or a load balancer adds to the query, it does not get in the way."""
    for path in ("/health/live", "/health/ready", "/openapi.json"):
        assert (await service.call("GET", f"{path}?from=probe&from=%FF")).status == 200
    ping = b'{"event": {"name": "ping"}}'
    answer = await service.call("POST", "/webhooks/fynd?source=live", data=ping)
    assert answer.status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_method(service: Service, method: str) -> None:
    """Another method is refused, with those that there are."""
    for path in (*READS, "/health/live", "/openapi.json"):
        answer = await service.call(method, path, headers=AUTH)
        assert_problem(answer, 405)
        searched = path.endswith("/users")
        assert answer.headers["allow"] == ("GET, HEAD, POST" if searched else "GET, HEAD")
        assert "GET, HEAD" in answer.body["detail"]
    answer = await service.call(method, "/webhooks/fynd")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_no_such_path(service: Service) -> None:
    """A path that is not there is answered with where the paths are listed."""
    for path in ("/", "/v1", "/v1/status/", "/v1//status", f"{USER}/", "/v1/applications//users"):
        answer = await service.get(path)
        assert_problem(answer, 404)
        assert "/openapi.json" in answer.body["detail"]


@pytest.mark.parametrize("path", READS)
async def test_head(service: Service, path: str) -> None:
    """HEAD is answered as GET, without a body, also where there is something wrong."""
    for query, status in (("", 200), ("?x=1", 400)):
        answer = await service.call("HEAD", path + query, headers=AUTH)
        assert (answer.status, answer.body) == (status, None)
    assert (await service.call("HEAD", path)).status == 401


async def test_head_of_a_stream(service: Service) -> None:
    """HEAD of a stream ends at once: there is nothing to send, however long one waits."""
    async with asyncio.timeout(PATIENCE_S):
        accept = {"Accept": "text/event-stream", **AUTH}
        answer = await service.call("HEAD", "/v1/events", headers=accept)
    assert answer.headers["content-type"] == "text/event-stream"


async def test_bytes_that_are_no_text(service: Service) -> None:
    """What is no text names nobody, in a path or a query, and breaks nothing."""
    texts = (b"%00", b"%FF", b"%ED%A0%80", b"\xff\xfe", b"a%00b", b"%zz", "é".encode())
    for text in texts:
        for path, allowed in (
            (b"/v1/applications/%b/users" % text, (200,)),
            (b"/v1/applications/%b/stats" % text, (200,)),
            (b"/v1/applications/%b/users/%b" % (text, text), (404,)),
            (b"/v1/applications/a/users?email=%b" % text, (200,)),
            (b"/v1/applications/a/users?username=%b&phone=%b" % (text, text), (200,)),
            (b"/v1/applications/a/users?%b=1" % text, (400,)),
            (b"/v1/events?after=%b" % text, (400,)),
            (b"/%b" % text, (404,)),
        ):
            head = b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n"
            status, answer = await service.raw(b"GET " + path + head)
            assert status in (*allowed, 400), path
            assert b"defect" not in answer, path
            assert SAMPLE_USER.encode() not in answer
