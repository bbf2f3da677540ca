from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import structlog

from api.observe import logs
from api.webhook.verify import HEADER, sign
from projections.project.projector import Projector
from tests.support.database import HEADS, assert_log_holds, blocked, connected, erase, holding
from tests.support.deliveries import (
    APP,
    DELETE_VERBATIM,
    SAMPLE_USER,
    SAMPLES,
    T0,
    delivery,
    encoded,
    entry,
    envelope,
)
from tests.support.events import event
from tests.support.proxy import proxied
from tests.support.serving import AUTH, SECRET, SECRETS, Answer, assert_problem, serving
from tests.support.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import Stack
    from tests.support.lines import Lines
    from tests.support.server import Server
    from tests.support.serving import Service

USER = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
USERS = f"/v1/applications/{APP}/users"
STATS = f"/v1/applications/{APP}/stats"
NOTHING = {"accepted": 0, "duplicates": 0, "ignored": 0, "quarantined": 0, "positions": []}


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture(scope="module")
async def shared(server: Server) -> AsyncIterator[Service]:
    """A service for all tests in which nothing depends on what is in its log."""
    async with server.database(1) as url, serving(url) as running:
        yield running


@pytest.fixture
async def untouched(shared: Service) -> AsyncIterator[Service]:
    """The same for tests that leave nothing there, neither in the log nor in quarantine."""
    before = await kept(shared)
    yield shared
    assert await kept(shared) == before


async def kept(service: Service) -> tuple[list[str], int]:
    """How far the log goes, and how many deliveries are in quarantine."""
    found = (await service.get("/v1/status")).body
    return [head["position"] for head in found["heads"]], found["quarantined"]


# What the platform is answered


async def test_samples(service: Service) -> None:
    """The documented samples are accepted one by one, and again as duplicates of the first."""
    for n, body in enumerate(SAMPLES, 1):
        answer = await service.post(body)
        assert answer.status == 200
        assert answer.body == {**NOTHING, "accepted": 1, "positions": [f"0:{n}"]}
    for n, body in enumerate(SAMPLES, 1):
        answer = await service.post(body)
        assert answer.body == {**NOTHING, "duplicates": 1, "positions": [f"0:{n}"]}
    await service.catch_up()
    found = (await service.get(USER)).body
    assert (found["user_id"], found["lifecycle"]) == (SAMPLE_USER, "deleted")
    assert found["as_of"]["position"] == "0:3"


async def test_either_secret(service: Service) -> None:
    """Both secrets of a rotation are accepted."""
    for n, secret in enumerate(SECRETS.webhook_secrets):
        body = delivery(at_ms=n)
        assert (await service.post(body, sign(body, secret))).body["accepted"] == 1


@pytest.mark.parametrize("signature", ["", None, "wrong"], ids=["good", "none", "wrong"])
async def test_ping(untouched: Service, signature: str | None) -> None:
    """A ping is answered with 200 and has no effect, whoever signed it."""
    answer = await untouched.post(b'{"event": {"name": "ping", "type": "test"}}', signature)
    assert (answer.status, answer.body) == (200, {**NOTHING, "ignored": 1})


async def test_other_topic(untouched: Service) -> None:
    """What the platform says of other things is acknowledged and ignored."""
    body = encoded(envelope([{"address": {"user_id": "u"}}], name="address"))
    answer = await untouched.post(body)
    assert (answer.status, answer.body) == (200, {**NOTHING, "ignored": 1})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (DELETE_VERBATIM, "not-json"),
        (b"", "not-json"),
        (b"\xff\xfe\x00", "not-json"),
        (b'{"a":' * 100_000, "not-json"),
        (b"[1, 2]", "unknown-envelope"),
        (b'{"some": "thing"}', "unknown-envelope"),
        (encoded(envelope([])), "no-users"),
        (encoded(envelope([{"no": "user"}])), "no-user"),
        (delivery("a\0b"), "no-user-id"),
        (delivery(kind="merge"), "unknown-event"),
    ],
    ids=[
        *("verbatim", "empty", "bytes", "deep", "list", "object"),
        *("no-users", "no-user", "nul", "merge"),
    ],
)
async def test_unreadable(shared: Service, body: bytes, reason: str) -> None:
    """What is signed and can't be read is acknowledged and kept, once, byte for byte."""
    heads, count = await kept(shared)
    for times in (1, 2):
        answer = await shared.post(body)
        assert (answer.status, answer.body) == (200, {**NOTHING, "quarantined": 1})
        newest, *_ = await shared.runtime.quarantine.newest(10)
        assert (newest.reason, newest.times_seen) == (reason, times)
        assert newest.headers["user-agent"]
        assert "x-fp-signature" not in newest.headers
        assert await shared.runtime.quarantine.show(newest.id) == (newest, body)
    assert await kept(shared) == (heads, count + 1)


async def test_good_and_bad_entries(service: Service) -> None:
    """Of a delivery with many users the readable ones are taken, and each of the rest is kept."""
    users = [entry(f"u{n}", first_name=f"N{n}") for n in range(3)]
    payload = [users[0], {"no": "user"}, users[1], {"user": {}}, users[2]]
    body = encoded(envelope(payload))
    answer = await service.post(body)
    expected = {**NOTHING, "accepted": 3, "quarantined": 2, "positions": ["0:1", "0:2", "0:3"]}
    assert (answer.status, answer.body) == (200, expected)
    left = [
        shown
        for one in await service.runtime.quarantine.newest(10)
        if (shown := await service.runtime.quarantine.show(one.id))
    ]
    assert {(kept.reason, alone) for kept, alone in left} == {
        ("no-user", encoded(envelope([payload[1]]))),
        ("no-user-id", encoded(envelope([payload[3]]))),
    }
    await service.catch_up()
    for n in range(3):
        found = await service.get(f"/v1/applications/{APP}/users/u{n}")
        assert found.body["state"] == {"first_name": f"N{n}"}
    again = await service.post(body)
    assert again.body == {**expected, "accepted": 0, "duplicates": 3}


async def test_same_id_other_content(service: Service) -> None:
    """Another content below an event id that is known is kept aside, not taken and not lost."""
    one, other = (delivery(event_id="e1", first_name=name) for name in "AB")
    assert (await service.post(one)).body["accepted"] == 1
    assert (await service.post(other)).body == {**NOTHING, "quarantined": 1}
    (kept,) = await service.runtime.quarantine.newest(10)
    assert (kept.reason, "0:1" in kept.detail) == ("same-id-other-content", True)


async def test_signature(untouched: Service) -> None:
    """A body or signature that was changed, or is not signed, is refused and nothing is kept."""
    for body in (*SAMPLES, DELETE_VERBATIM, b"", b"[" * 5_000):
        await _refuse_changed(untouched, body)


async def _refuse_changed(service: Service, body: bytes) -> None:
    good = sign(body, "new secret")
    wrong = [None, "x", good[:-1], good.upper() + "0", f"sha256={good}", sign(body, "token")]
    for signature in wrong:
        assert_problem(await service.post(body, signature), 401)
    assert_problem(await service.post(body + b" ", good), 401)
    assert_problem(await service.post(body.replace(b"1", b"2") + b"\n", good), 401)


async def test_too_large(service: Service) -> None:
    """A body above the limit is refused whether signed or not, and nothing is kept."""
    body = delivery(first_name="x" * (2 << 20))
    assert_problem(await service.post(body), 413)
    assert_problem(await service.post(body, None), 413)
    assert await kept(service) == (["0:0"], 0)
    fits = delivery(first_name="x" * ((1 << 20) - len(delivery(first_name=""))))
    assert len(fits) == 1 << 20
    assert (await service.post(fits)).body["accepted"] == 1


async def test_full_queue(database_url: str) -> None:
    """While too much waits to be written, a delivery is refused for now and nothing of it kept."""
    async with serving(database_url, queue_rows_max=1) as service:
        async with holding(database_url, HEADS) as admin:
            first = asyncio.create_task(service.post(delivery("a")))
            await blocked(admin)
            refused = await service.post(delivery("b"))
            assert_problem(refused, 503)
            assert int(refused.headers["retry-after"]) > 0
        assert (await first).body["accepted"] == 1
        assert (await service.post(delivery("b"))).body["positions"] == ["0:2"]


async def test_large_delivery(database_url: str) -> None:
    """A delivery with more users than may wait is not refused for ever."""
    async with serving(database_url, queue_rows_max=10) as service:
        answer = await service.post(encoded(envelope([entry(n) for n in range(25)])))
        assert (answer.status, answer.body["accepted"]) == (200, 25)


async def test_database_away(database_url: str, stack: Stack) -> None:
    """While the database is away every request that needs it is refused for now, and only then."""
    async with proxied(database_url) as proxy, serving(proxy.url) as service:
        await service.post(SAMPLES[0])
        proxy.cut()
        for answer in (
            await service.post(SAMPLES[1]),
            await service.post(b"unreadable"),
            await service.get(USER),
            await service.get(f"{USER}/history"),
            await service.get("/v1/status"),
            await service.get("/health/ready"),
        ):
            assert_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert (await service.get("/health/live")).status == 200
        assert (await service.post(b'{"event": {"name": "ping"}}', None)).status == 200
        proxy.restore()
        assert (await service.post(SAMPLES[1])).body["positions"] == ["0:2"]
        assert (await service.get("/health/ready")).status == 200
    assert await assert_log_holds(stack) == 2


# Who may ask


@pytest.mark.parametrize("path", [USER, f"{USER}/history", STATS, "/v1/status"])
async def test_token(untouched: Service, path: str) -> None:
    """Without the token nothing is answered."""
    for given in ({}, {"Authorization": "Bearer tokeN"}, {"Authorization": "token"},
                  {"Authorization": "Basic token"}, {"Authorization": "Bearer"},
                  {"Authorization": "Bearer é"}):  # fmt: skip
        answer = await untouched.call("GET", path, headers=given)
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    status, _ = await untouched.raw(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n".encode("latin-1")
    )
    assert status == 401
    for given in ({"Authorization": "bearer token"}, {"Authorization": "Bearer  token "}):
        assert (await untouched.call("GET", path, headers=given)).status in (200, 404)


async def test_odd_headers(untouched: Service) -> None:
    """Header bytes that are no text are wrong like any other wrong value."""
    head = b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    assert (await untouched.raw(head + b"x-fp-signature: \xff\xc3\r\n"))[0] == 401
    status, answer = await untouched.raw(
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: \xff\xc3\r\n"
    )
    assert status == 200
    assert b"\xff" not in answer


async def test_request_id(untouched: Service) -> None:
    """A request id comes back if it is a plain word, and is made if not."""
    for given, kept in (("abc-1.2_3", True), ("a" * 64, True), ("a" * 65, False), ("a b", False)):
        headers = {"X-Request-Id": given}
        answer = await untouched.call("GET", "/health/live", headers=headers)
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"]
    assert_problem(answer := await untouched.get("/nowhere"), 404)
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


# What is answered about users


async def test_missing(service: Service) -> None:
    """An unknown user, path or method is said to be unknown."""
    await service.post(SAMPLES[0])
    await service.catch_up()
    assert (await service.get(USER)).status == 200
    for path in (f"{USER}x", f"{USER}x/history", f"/v1/applications/x/users/{SAMPLE_USER}", "/x"):
        assert_problem(await service.get(path), 404)
    for moment in ({"valid_at": "2023-06-13T09:48:47.620Z"}, {"known_at": "1999-01-01T00:00:00Z"}):
        assert_problem(await service.get(USER, **moment), 404)
    for given in ({"known_at": "0"}, {"valid_at": "0"}):
        assert_problem(await service.get(f"{USER}/history", **given), 404)
    answer = await service.call("PUT", USER, headers=AUTH)
    assert_problem(answer, 405)
    assert "GET" in answer.headers["allow"]


async def test_erased(service: Service, stack: Stack) -> None:
    """An erased user is gone, now and at every moment, and what comes later is acknowledged."""
    for body in SAMPLES[:2]:
        await service.post(body)
    await service.catch_up()
    await erase(stack, SAMPLE_USER)
    assert (await service.post(SAMPLES[2])).body["accepted"] == 1
    await service.catch_up()
    for query in ({}, {"valid_at": "2999-01-01T00:00:00Z"}, {"known_at": "2999-01-01T00:00:00Z"}):
        assert_problem(await service.get(USER, **query), 410)
    for query in ({}, {"known_at": "2999-01-01T00:00:00Z"}):
        assert_problem(await service.get(f"{USER}/history", **query), 410)


async def test_parked(lines: Lines, service: Service, stack: Stack) -> None:
    """An answer says which event it lacks; one that can't be given at all says it is not there."""
    await service.post(delivery("u", first_name="A"))
    await stack.log.append([event("u", "x", payload=b"no"), event("v", "x", payload=b"no")])
    before = (await service.get("/v1/status")).body["parked"]
    await service.catch_up()
    assert (before, (await service.get("/v1/status")).body["parked"]) == (0, 2)
    path = f"/v1/applications/{APP}/users/"
    found = (await service.get(f"{path}u")).body
    assert found["state"] == {"first_name": "A"}
    stale = found["stale"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stale.pop("since"))
    assert stale == {"position": "0:2", "reason": "unreadable"}
    history = (await service.get(f"{path}u/history")).body
    assert history["stale"] == found["stale"] | {"since": history["stale"]["since"]}
    assert len(history["entries"]) == 1
    for wrong in ("v", "v/history"):
        answer = await service.get(path + wrong)
        assert_problem(answer, 503)
        assert "0:3" in answer.body["detail"]
        assert "rebuild" in answer.body["detail"]
    assert "user parked" in lines.all()


async def test_moments_around_an_unreadable_event(service: Service, stack: Stack) -> None:
    """A question about a moment is answered unless it takes the unreadable event, then named."""
    await service.post(delivery("u", first_name="A"))
    later = T0 + timedelta(hours=1)
    await stack.log.append([event("u", "x", payload=b"no", occurred_at=later)])
    await service.catch_up()
    path = f"/v1/applications/{APP}/users/u"
    answer = await service.get(path, valid_at="2023-06-13T10:00:00Z")
    assert answer.body["state"] == {"first_name": "A"}
    assert "stale" not in answer.body
    assert_problem(await service.get(path, valid_at="2023-06-13T09:00:00Z"), 404)
    for given in ({"valid_at": "2024-01-01T00:00:00Z"}, {"known_at": "2999-01-01T00:00:00Z"}):
        answer = await service.get(path, **given)
        assert_problem(answer, 503)
        assert "0:2" in answer.body["detail"]
    answer = await service.get(f"{path}/history", known_at="2999-01-01T00:00:00Z")
    assert_problem(answer, 503)
    assert "0:2" in answer.body["detail"]


async def test_stats(service: Service) -> None:
    """Every day that was asked for is there, in order, whether something happened on it or not."""
    await service.post(delivery("u", "create"))
    await service.post(delivery("v", "create", at_ms=86_400_000 * 2))
    await service.post(delivery("u", at_ms=86_400_000 * 2, active=False))
    await service.catch_up()
    path = f"/v1/applications/{APP}/stats"
    query = {"from": "2023-06-12", "to": "2023-06-15"}
    answer = await service.get(path, **query)
    nothing = dict.fromkeys(("events", "created", "deleted", "blocked", "reactivated"), 0)
    nothing["active"] = 1
    assert answer.body == {
        "application_id": APP,
        "days": [
            {**nothing, "date": "2023-06-12", "active": 0},
            {**nothing, "date": "2023-06-13", "created": 1, "events": 1},
            {**nothing, "date": "2023-06-14"},
            {**nothing, "date": "2023-06-15", "created": 1, "blocked": 1, "events": 2},
        ],
    }
    recent = (await service.get(path)).body["days"]
    assert len(recent) == 30
    assert recent[-1] == {**nothing, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    month = (await service.get(path, to="2023-06-30")).body["days"]
    assert [month[0]["date"], month[-1]["date"]] == ["2023-06-01", "2023-06-30"]
    for unknown in ("/v1/applications/other/stats", "/v1/applications/a%00b/stats"):
        answer = await service.get(unknown, **query)
        assert (answer.status, answer.body["days"]) == (200, [])


async def test_moments(service: Service) -> None:
    """A moment may be given with any offset, or as milliseconds, and means the same."""
    await service.post(delivery("u", "create", first_name="A"))
    await service.post(delivery("u", at_ms=1_000, first_name="B"))
    path = f"/v1/applications/{APP}/users/u"
    for given in (
        "2023-06-13T09:48:48.620Z",
        "2023-06-13T15:18:48.620+05:30",
        "2023-06-13 05:48:48.620-04:00",
        "1686649728620",
    ):
        answer = await service.get(path, valid_at=given)
        assert answer.body["state"] == {"first_name": "A"}
    status, answer_bytes = await service.raw(
        f"GET {path}?valid_at=2023-06-13T15:18:48.621+05:30 HTTP/1.1\r\nHost: x\r\n"
        "Authorization: Bearer token\r\n".encode()
    )
    assert status == 200
    assert b'"B"' in answer_bytes


async def test_users(service: Service) -> None:
    """Users are found by e-mail, phone and username, and listed, page by page."""
    for n in range(3):
        emails, phones = [{"email": f"{n}@b.c"}], [{"phone": "5550001"}]
        body = delivery(f"u{n}", at_ms=n, username="x", emails=emails, phone_numbers=phones)
        await service.post(body)
    await service.catch_up()
    path = f"/v1/applications/{APP}/users"

    async def ids(**query: str) -> list[str]:
        found = await service.get(path, **query)
        assert found.status == 200
        return [user["user_id"] for user in found.body["users"]]

    assert await ids() == await ids(phone="05550001", username="X") == ["u2", "u1", "u0"]
    assert await ids(email="1@B.C") == ["u1"]
    assert await ids(email="1@b.c", phone="5550002") == []
    assert await ids(lifecycle="deleted") == []
    assert await ids(updated_since="2023-06-13T09:48:47.622Z") == ["u2", "u1"]
    first = (await service.get(path, limit="2")).body
    assert first["next"]
    assert await ids(limit="2", after=first["next"]) == ["u0"]
    user = (await service.get(f"{path}/u2")).body
    assert first["users"][0] == user


async def test_history_pages(service: Service) -> None:
    """Following `next` shows every entry once, in either order, as it is or was known."""
    for n in range(5):
        await service.post(delivery("u", at_ms=n, first_name=f"{n}"))
    await service.catch_up()
    path = f"/v1/applications/{APP}/users/u/history"
    for order in ("asc", "desc"):
        for known_at in ({}, {"known_at": "2999-01-01T00:00:00Z"}):
            query = {"limit": "2", "order": order, **known_at}
            seen: list[str] = []
            page = (await service.get(path, **query)).body
            while len(seen) < 9:
                seen += [entry["position"] for entry in page["entries"]]
                if page["next"] is None:
                    break
                page = (await service.get(path, **query, after=page["next"])).body
            expected = [f"0:{n}" for n in range(1, 6)]
            assert seen == (expected if order == "asc" else expected[::-1])


BAD: list[tuple[str, dict[str, str], list[str]]] = [
    (USER, {"valid_at": "yesterday"}, ["valid_at"]),
    (USER, {"valid_at": "2023-06-13T09:48:47"}, ["valid_at"]),
    (USER, {"valid_at": "2023-06-13"}, ["valid_at"]),
    (USER, {"valid_at": ""}, ["valid_at"]),
    (USER, {"known_at": "99999999999999999999"}, ["known_at"]),
    (USER, {"known_at": "253402300800000"}, ["known_at"]),
    (USER, {"known_at": "0001-01-01T00:00:00+23:59"}, ["known_at"]),
    (USER, {"min_position": "7"}, ["min_position"]),
    (USER, {"min_position": "1:1"}, ["min_position"]),
    (USER, {"min_position": "0:9999999999999999999"}, ["min_position"]),
    (USER, {"valid_at": "x", "known_at": "y", "z": "1"}, ["valid_at", "known_at", "z"]),
    (USER, {"no <b>name</b>": "1"}, ["a parameter"]),
    (f"{USER}/history", {"limit": "0"}, ["limit"]),
    (f"{USER}/history", {"limit": "1001"}, ["limit"]),
    (f"{USER}/history", {"limit": "-1"}, ["limit"]),
    (f"{USER}/history", {"limit": "9" * 5_000}, ["limit"]),
    (f"{USER}/history", {"order": "up"}, ["order"]),
    (f"{USER}/history", {"after": "0:1"}, ["after"]),
    (f"{USER}/history", {"after": "00" * 23}, ["after"]),
    (f"{USER}/history", {"after": "00" * 33}, ["after"]),
    (f"{USER}/history", {"after": "00" * 24 + "f"}, ["after"]),
    (f"{USER}/history", {"after": "00" * 24 + "-1"}, ["after"]),
    (f"{USER}/history", {"after": " " * 48}, ["after"]),
    (USERS, {"lifecycle": "dead"}, ["lifecycle"]),
    (USERS, {"email": "", "phone": " "}, ["email", "phone"]),
    (USERS, {"email": "x" * 501}, ["email"]),
    (USERS, {"updated_since": "today", "limit": "0"}, ["updated_since", "limit"]),
    (USERS, {"after": "x", "first_name": "y"}, ["after", "first_name"]),
    (f"{USER}/history", {"updated_since": "0"}, ["updated_since"]),
    ("/v1/status", {"verbose": "1"}, ["verbose"]),
    (STATS, {"from": "2023-06-13T00:00:00Z"}, ["from"]),
    (STATS, {"from": "20230613", "to": "2023-W24-2"}, ["from", "to"]),
    (STATS, {"from": "2023-02-29"}, ["from"]),
    (STATS, {"from": "", "to": "tomorrow", "by": "week"}, ["from", "to", "by"]),
    (STATS, {"from": "2023-06-14", "to": "2023-06-13"}, ["from"]),
    (STATS, {"from": "2020-01-01", "to": "2023-06-13"}, ["from"]),
]  # fmt: skip


async def test_bad_parameters(shared: Service) -> None:
    """Every parameter that is unknown or can't be read is named, all at once."""
    await shared.post(SAMPLES[0])
    await shared.catch_up()
    for path, query, wrong in BAD:
        assert_problem(await shared.get(path, **query), 400, *wrong)


async def test_position_not_reached(service: Service) -> None:
    """With `min_position` an answer says so when the read model does not get there in time."""
    position = (await service.post(SAMPLES[0])).body["positions"][0]
    for path in (USER, f"{USER}/history"):
        answer = await service.get(path, min_position=position)
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0


async def test_read_your_writes(database_url: str) -> None:
    """With `min_position` an answer waits for what was written."""
    async with serving(database_url, wait_timeout_s=PATIENCE_S) as service:
        projector = Projector(service.runtime.log, batch_max=10, poll_s=3_600)
        service.runtime.log.observers.append(lambda _events, _seconds: projector.wake())
        projector.start()
        for n in range(5):
            body = SAMPLES[0].replace(SAMPLE_USER.encode(), b"new%d" % n)
            position = (await service.post(body)).body["positions"][0]
            path = f"/v1/applications/{APP}/users/new{n}"
            assert (await service.get(path, min_position=position)).status == 200
        await projector.stop()


async def test_odd_ids(untouched: Service) -> None:
    """Whatever stands in the path, a user that is not known is not found and nothing breaks."""
    ids = (
        b"%FF %ED%A0%80 %C3%28 %00 a%00b %2F %2e%2e %25 % %zz %0A %20 ; : @ + %F0%9F%98%80".split()
    )
    for user_id in (*ids, b"\xff", "é".encode(), b"x" * 7_000):
        for suffix in (b"", b"/history"):
            path = b"/v1/applications/a/users/" + user_id + suffix
            status, answer = await untouched.raw(
                b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n"
            )
            assert status in (400, 404), user_id
            assert b"defect" not in answer, user_id


async def test_odd_ids_are_found(service: Service) -> None:
    """A user is found below their id, quoted, whatever character of ASCII it has, and others."""
    odd = [chr(code) for code in range(1, 128)]
    odd.remove(".")  # a path is resolved before it is sent
    more = ["é", "{}", "{a}", "a//b", "%2F", "....", "\U0001f600"]
    ids = [*(f"a{one}b" for one in odd), *odd, *more]
    for user_id in ids:
        await service.post(delivery(user_id, first_name="N"))
    await service.catch_up()
    for user_id in ids:
        path = f"/v1/applications/{APP}/users/{quote(user_id, safe='')}"
        for suffix in ("", "/history"):
            request = f"GET {path}{suffix} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n"
            status, _ = await service.raw(request.encode())
            assert status == 200, ascii(user_id)


async def test_too_long_a_line(untouched: Service) -> None:
    """A request line longer than the server reads is refused."""
    status, _ = await untouched.raw(b"GET /v1/" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n")
    assert status in (400, 414)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_encoded_upload(untouched: Service, encoding: str) -> None:
    """A body is not unpacked, also if it is signed, nor waited for."""
    head = f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\n"
    for length in (0, 8):
        given = f"Content-Length: {length}\r\n"
        status, answer = await untouched.raw((head + given).encode())
        assert status == 415
        assert b"Accept-Encoding: identity" in answer
    body = SAMPLES[0]
    headers = {HEADER: sign(body, SECRET), "Content-Encoding": encoding}
    answered = await untouched.call("POST", "/webhooks/fynd", data=body, headers=headers)
    assert_problem(answered, 415)


@pytest.mark.parametrize("path", ["/webhook/fynd", "/webhooks/fynd/", "/webhooks/Fynd", "/fynd"])
async def test_path_near_the_webhook(untouched: Service, path: str) -> None:
    """Whoever mistyped the webhook's path learns where it is, and needs no token for that."""
    answer = await untouched.call("POST", path, data=b"{}")
    assert_problem(answer, 404)
    assert "/webhooks/fynd" in answer.body["detail"]
    answer = await untouched.call("POST", "/orders", data=b"{}")
    assert_problem(answer, 404)
    assert "/webhooks/fynd" not in answer.body["detail"]


async def test_cut_off_upload(lines: Lines, service: Service) -> None:
    """A sender that hangs up in the middle is no defect either, and nothing of it is kept."""
    _, writer = await service.connect()
    writer.write(b"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    assert (await lines.until("request"))["status"] == 400
    assert await kept(service) == (["0:0"], 0)


async def test_a_damaged_row(stack: Stack, service: Service, lines: Lines) -> None:
    """A sealed row that was altered is no answer; what to do is said, and the log is told once."""
    await service.post(delivery("u", first_name="A"))
    await service.catch_up()
    await stack.admin.execute("UPDATE userlog.users SET sealed = sealed || 'x'")
    await stack.admin.execute("UPDATE userlog.history SET position = position + 1")
    path = f"/v1/applications/{APP}/users"
    for one in (path, f"{path}/u", f"{path}/u/history"):
        answer = await service.get(one)
        assert_problem(answer, 503)
        assert "rebuild --user" in answer.body["detail"]
        assert (await lines.until("a stored row does not open"))["level"] == "error"


async def test_search_by_post(service: Service) -> None:
    """What is searched for may stand in the body; answer and mistakes are the same."""
    await service.post(delivery("u", emails=[{"email": "u@example.com"}]))
    await service.catch_up()
    path = f"/v1/applications/{APP}/users"

    async def search(body: bytes) -> Answer:
        return await service.call("POST", path, data=body, headers=AUTH)

    asked = await search(b'{"email": "u@example.com", "limit": 1}')
    assert asked.body == (await service.get(path, email="u@example.com", limit="1")).body
    assert [user["user_id"] for user in asked.body["users"]] == ["u"]
    assert (await search(b"{}")).body["users"]
    assert (await search(b'{"limit": 1.0}')).body["users"]  # an integer, to JSON Schema
    assert_problem(await search(b'{"limit": 0, "x": 1, "after": "y"}'), 400, "limit", "after", "x")
    for name in ("email", "limit"):
        for value in (b"null", b"true", b"[]", b"1.5", b"0" if name == "email" else b'"1"'):
            refused = await search(b'{"%s": %s}' % (name.encode(), value))
            assert_problem(refused, 400, name)
    for wrong in (b"", b"[]", b"{", b"\xff"):
        assert_problem(await search(wrong), 400)
    assert_problem(await search(b'{"email": "%s"}' % (b"x" * (1 << 14))), 413)
    assert_problem(await service.call("POST", path, data=b"{}"), 401)


async def test_what_every_answer_carries(untouched: Service) -> None:
    """No version, and that nothing is to be kept on the way."""
    for path in ("/v1/status", "/health/live", "/nowhere", "/metrics"):
        async with untouched.client.get(path, headers=AUTH) as answer:
            assert answer.headers["Server"] == "userlog"
            assert answer.headers["Cache-Control"] == "no-store"
    headers = {**AUTH, "Accept": "text/event-stream"}
    async with untouched.client.get("/v1/events", headers=headers) as stream:
        assert stream.headers["Server"] == "userlog"
        assert re.fullmatch(r"[0-9a-f]{32}", stream.headers["X-Request-Id"])


async def test_health_and_status(service: Service) -> None:
    """Health needs no token; the status shows head, checkpoint, lag and quarantine."""
    for path in ("/health/live", "/health/ready"):
        assert (await service.call("GET", path)).body == {"status": "ok"}
    await service.post(SAMPLES[0])
    await service.post(DELETE_VERBATIM)
    before = (await service.get("/v1/status")).body
    await service.catch_up()
    after = (await service.get("/v1/status")).body
    (head,) = after["heads"]
    assert head["position"] == "0:1"
    assert re.fullmatch(r"[0-9a-f]{64}", head["chain"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", head["recorded_at"])
    assert after["quarantined"] == 1
    lags = [(p["position"], p["head"], p["lag_positions"]) for p in before["projections"]]
    assert lags == [(0, 1, 1)]
    (lag,) = after["projections"]
    assert (lag["position"], lag["lag_positions"], lag["lag_s"]) == (1, 0, 0)


# What must not be said


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Let a test configure logging as the service does."""
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = before[0]
    logging.root.setLevel(before[1])
    structlog.reset_defaults()


async def test_no_personal_data_in_logs(
    database_url: str, logging_restored: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever succeeds or fails, no log line holds anything of a user."""
    logs.configure("debug", "json")
    logging.root.setLevel(logging.DEBUG)
    async with proxied(database_url) as proxy, serving(proxy.url) as service:
        conflict = SAMPLES[0].replace(b'"type": "create"', b'"type": "create", "id": "e1"')
        bodies = [*SAMPLES, *SAMPLES, DELETE_VERBATIM, SAMPLES[0][:900]]
        bodies += [SAMPLES[0].replace(b",", b",,")]
        bodies += [conflict, conflict.replace(b'"male"', b'"none"')]
        bodies += [SAMPLES[0].replace(b'"user": {', b'"nobody": {'), SAMPLES[0] * 900]
        for body in bodies:
            await service.post(body)
            await service.post(body, "wrong")
        await service.catch_up()
        for query in ({}, {"valid_at": "Salman"}, {"Salman": "Saudagar"}, {"known_at": "0"}):
            await service.get(USER, **query)
            await service.get(f"{USER}x/history", **query)
        await service.raw(f"GET {USER}%FF?a=8285462419 HTTP/1.1\r\nHost: x\r\n".encode())
        await service.raw(b"Salman\xff / HTTP/9.9\r\n")
        proxy.cut()
        await service.post(SAMPLES[0])
        await service.get(USER)
        proxy.restore()
        async with connected(database_url) as admin:
            await admin.execute("ALTER TABLE userlog.users ALTER COLUMN kind TYPE text USING 'x'")
        assert_problem(await service.get(USER), 500)
    # Digits of a time or an id may be those of a word.
    said = re.sub(
        r'"(timestamp|request_id|quarantine_id)": "[^"]*"', "", "".join(capfd.readouterr())
    )
    for line in ("delivery quarantined", "database not available", "request failed", '"request"'):
        assert line in said
    for word in ("salman", "saudagar", "8285462419", SAMPLE_USER, "31354", APP, "gofynd.com"):
        assert word not in said.lower()
