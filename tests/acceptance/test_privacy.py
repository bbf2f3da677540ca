"""What is said about users is in answers to those who may ask, and nowhere else."""

from __future__ import annotations

import asyncio
import hmac
import io
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from tests.support.deliveries import APP, delivery, encoded, envelope
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.nursery import Nursery
    from tests.support.processes import Home, Service

FIRST, LAST, NAME = "Zephyrine", "Quillfeather", "zq-hidden-name"
MAIL, PHONE = "zephyrine@quillmail.example", "8123456709"
WORDS = (FIRST, LAST, NAME, MAIL, "quillmail", PHONE)
PERSON: dict[str, Any] = {
    "user_id": "u1",
    "first_name": FIRST,
    "last_name": LAST,
    "username": NAME,
    "emails": [{"email": MAIL, "active": True, "primary": True, "verified": True}],
    "phone_numbers": [{"phone": PHONE, "country_code": 91, "active": True, "primary": True}],
}
USERS = f"/v1/applications/{APP}/users"
USER = f"{USERS}/u1"


class Asked:
    """A service, and everything that it answered to what it refused."""

    def __init__(self, service: Service, secret: str, token: str) -> None:
        self._service, self._secret, self._token = service, secret, token
        self.refused: list[str] = []
        self.statuses: set[int] = set()

    async def call(self, method: str, path: str, token: str | None = None, **given: Any) -> str:
        """Ask, and keep the answer if it is a refusal."""
        headers = {"Authorization": f"Bearer {token or self._token}", **given.pop("headers", {})}
        url = URL(self._service.base + path, encoded=True)
        async with aiohttp.request(method, url, headers=headers, **given) as response:
            text = await response.text()
            self.statuses.add(response.status)
            if response.status >= 400:
                self.refused.append(f"{response.headers}{text}")
            return text

    async def post(self, body: bytes, signature: str | None = None) -> str:
        """Deliver."""
        good = hmac.new(self._secret.encode(), body, "sha256").hexdigest()
        headers = {"x-fp-signature": signature or good}
        return await self.call("POST", "/webhooks/fynd", data=io.BytesIO(body), headers=headers)

    async def raw(self, request: bytes) -> None:
        """Send what no client would."""
        host, port = self._service.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        writer.write_eof()
        self.refused.append((await reader.read()).decode(errors="replace"))
        writer.close()
        await writer.wait_closed()


def person(kind: str = "update", at_ms: int = 0, **changed: Any) -> bytes:
    """Make a delivery about this person."""
    return delivery(kind=kind, at_ms=at_ms, **{**PERSON, **changed})


async def deliver(asked: Asked) -> None:
    """Send what is good, and everything that can be wrong with it."""
    good = [person(kind, n) for n, kind in enumerate(("create", "update"))]
    bad = [good[0][:-9], good[0].replace(b'"user":', b'"person":'), good[0].replace(b",", b",,", 1)]
    bad += [
        good[0].replace(b'"update"', b'"create"').replace(FIRST.encode(), b"\xff" + FIRST.encode())
    ]
    bad += [person(event_id="e1"), person(event_id="e1", first_name=f"{FIRST}2")]
    bad += [b"[" * 200 + good[0]]
    bad += [good[0].replace(b'"u1"', b'"u\\u0000%b"' % MAIL.encode())]
    bad += [good[0].replace(b'"u1"', b'"\\ud800%b"' % MAIL.encode())]
    for body in (*good, *good, *bad, FIRST.encode() * 200_000):
        await asked.post(body)
        await asked.post(body, f"wrong {FIRST}")


async def ask(asked: Asked) -> None:
    """Ask rightly and wrongly."""
    await asked.call("GET", f"{USER}?min_position=0:2")
    mail, phone = quote(MAIL), quote(PHONE)
    for query in (
        *(f"email={mail}", f"phone={phone}", f"phone=%2B91{phone}", f"username={NAME}"),
        *(f"phone={mail}", f"emial={mail}", f"limit={mail}", f"after={mail}", f"lifecycle={FIRST}"),
        *(
            f"updated_since={FIRST}",
            f"email={mail}&email={mail}",
            f"color={LAST}",
            f"email={mail}%00",
        ),
    ):
        await asked.call("GET", f"{USERS}?{query}")
    for query in (f"valid_at={FIRST}", f"min_position={mail}", f"color={FIRST}", f"order={FIRST}"):
        for path in (
            USER,
            f"{USER}/history",
            "/v1/events",
            "/v1/status",
            f"/v1/applications/{APP}/stats",
        ):
            await asked.call("GET", f"{path}?{query}")
    for path in (
        f"/{FIRST}",
        f"{USERS}/{mail}",
        f"{USERS}/{mail}/nothing",
        f"/v1/applications/{mail}",
    ):
        await asked.call("GET", path)
        await asked.call("PATCH", path)
    await asked.call("GET", USER, token=f"userlog_{FIRST}_{LAST}")
    await asked.call("GET", USER, headers={"X-Request-Id": f"{FIRST} {MAIL}"})
    await asked.call(
        "GET", "/v1/events", headers={"Accept": "text/event-stream", "Last-Event-ID": MAIL}
    )
    await asked.raw(f"{FIRST} {MAIL}\r\n\r\n".encode())
    await asked.raw(f"GET /{FIRST} HTTP/1.1\r\nHost: x\r\nX-{FIRST}\r\n\r\n".encode())
    await asked.raw(f"GET /{'x' * 9_000}{FIRST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await asked.raw(f"GET / HTTP/1.1\r\nHost: x\r\n{FIRST}: {'x' * 9_000}{LAST}\r\n\r\n".encode())
    await asked.raw(
        f"POST /webhooks/fynd HTTP/1.1\r\nHost: x\r\nContent-Length: {PHONE}x\r\n\r\n".encode()
    )


async def damage(home: Home, asked: Asked) -> None:
    """Let the database fail in the ways that quote values, and be away for a moment."""
    async with home.database() as database:
        await database.execute(
            "ALTER TABLE userlog.quarantine ADD CONSTRAINT no CHECK (false) NOT VALID"
        )
        await asked.post(encoded(envelope([{"person": PERSON}], "create", 50)))
        await database.execute("ALTER TABLE userlog.quarantine DROP CONSTRAINT no")
        await database.execute(
            "ALTER TABLE userlog.users ADD CONSTRAINT no CHECK (false) NOT VALID"
        )
        await asked.post(person(at_ms=60, user_id="u2"))
        await asked.call("GET", f"{USERS}/u2?min_position=0:4")
        await database.execute("ALTER TABLE userlog.users DROP CONSTRAINT no")
        await database.execute(f"UPDATE userlog.users SET sealed = '{LAST}'")
    killed = home.postmaster()
    os.kill(killed, signal.SIGKILL)
    await asked.post(person(at_ms=70))
    await asked.call("GET", USER)

    async def answered_by_another() -> bool:
        status = await asked.call("GET", "/v1/status")
        return "heads" in status and home.postmaster() != killed  # who dies may still answer

    await until(answered_by_another)


@pytest.mark.parametrize("style", ["text", "json"])
async def test_nothing_is_said_elsewhere(own_home: Home, nursery: Nursery, style: str) -> None:
    """No line of a log, metric or refusal of a whole life holds anything that was sent."""
    home = replace(own_home, nursery=nursery)
    loud = home.where(
        USERLOG_LOG_LEVEL="debug", USERLOG_LOG_FORMAT=style, USERLOG_SCRUB_INTERVAL_S="0.05"
    )
    said: list[str] = []
    bundle = own_home.folder.with_name("bundle.json")
    workers = ("--workers", "2" if style == "text" else "1")
    async with loud.serving(*workers) as service:
        secret, token = loud.secret, loud.token
        asked = Asked(service, secret, token)
        await deliver(asked)
        await ask(asked)
        await damage(loud, asked)
        for command in (
            *(("rebuild", "--verify-only"), ("rebuild", "--diff", "--workers", "1")),
            *(
                ("verify",),
                ("status",),
                ("doctor", "--bundle", str(bundle)),
                ("rebuild", *workers),
                ("quarantine", "list"),
                ("backup", str(home.folder.with_name("backup"))),
                ("user", APP, MAIL),
                ("rebuild", "--user", MAIL),
            ),
            *(("user", APP, "u1", "--valid-at", FIRST), ("token", "create", "--name", "a")),
        ):
            alone = style == "text" and command[0] in {"quarantine", "token"}
            done = await (loud.alone() if alone else loud).run(*command)
            said += [done.err] if done.code == 0 else [done.err, done.out]
            if command[0] != "user":
                said.append(done.out)
        await asked.call("DELETE", f"{USER}/personal-data")
        await asked.call("GET", USER)
        metrics = await asked.call("GET", "/metrics")
        assert await service.stop(signal.SIGTERM) == 0
    log = loud.folder.with_suffix(".log").read_text()
    assert "delivery quarantined" in log
    assert "read model differs from the log" in log
    assert {400, 401, 404, 405, 410, 413, 503} <= asked.statuses
    said += [
        bundle.read_text(),
        metrics,
        log,
        (loud.folder / "postgres.log").read_text(),
        *asked.refused,
    ]
    for text in said:
        for word in (*WORDS, secret, token):
            assert word.lower() not in text.lower(), f"{word} in: {text[:3_000]}"
