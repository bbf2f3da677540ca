"""A service in the tests' own process, on a free port, and who calls it.

It is served and stopped as the product does it; aiohttp's test server would cancel handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import ClientSession

from api.app import App
from api.config.secret_files import Secrets
from api.config.settings import Settings
from api.runtime import Runtime, opened
from api.server import process
from api.server.sockets import listening
from api.webhook.verify import HEADER, sign
from projections.project.projector import catch_up
from projections.prove.scrubber import Scrubber
from tests.conftest import MASTER_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.server.connections import Runner

# Deliveries are signed with the last of the webhook secrets, unless another is given.
SECRET, TOKEN = "new secret", "token"
SECRETS = Secrets(["old secret", SECRET], MASTER_KEY, None, TOKEN, [])
AUTH = {"Authorization": f"Bearer {TOKEN}"}


class Answer(NamedTuple):
    """An HTTP answer: headers by their names in lower case, a body of JSON decoded."""

    status: int
    headers: dict[str, str]
    body: Any


class Service(NamedTuple):
    """A running service without a projector, and the two sides that call it."""

    runtime: Runtime
    runner: Runner
    scrubber: Scrubber
    client: ClientSession
    port: int

    @property
    def base(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to send on what no client sends."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def call(self, method: str, path: str, **given: Any) -> Answer:
        """Ask for something that is answered with JSON or nothing."""
        async with self.client.request(method, path, **given) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = await response.read()
            return Answer(response.status, headers, msgspec.json.decode(body) if body else None)

    async def get(self, path: str, **query: str) -> Answer:
        """Ask with the token that opens everything."""
        return await self.call("GET", path, params=query, headers=AUTH)

    async def text(self, path: str) -> str:
        """Ask for something that is answered with text."""
        async with self.client.get(path, headers=AUTH) as response:
            assert response.status == 200
            return await response.text()

    async def post(
        self, body: bytes, signature: str | None = "", *, secret: str = SECRET
    ) -> Answer:
        """Post as the platform does; without a signature if it is None."""
        given = sign(body, secret) if signature == "" else signature
        headers = {} if given is None else {HEADER: given}
        return await self.call("POST", "/webhooks/fynd", data=io.BytesIO(body), headers=headers)

    async def raw(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Send bytes that no client would send; return the status and all that came back."""
        reader, writer = await self.connect()
        writer.write(head + b"Connection: close\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split(b" ", 2)[1]), answer

    async def catch_up(self) -> None:
        """Project what there is."""
        await catch_up(self.runtime.log, 100)


def assert_problem(answer: Answer, status: int, *parameters: str) -> None:
    """Check the shape that RFC 9457 and our own promise give to everything but success."""
    assert answer.status == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    document = answer.body
    assert document["status"] == status
    assert document["type"].startswith("urn:userlog:problem:")
    assert document["title"]
    assert document["detail"]
    assert [e["parameter"] for e in document.get("errors", [])] == list(parameters)
    assert all(e["detail"] for e in document.get("errors", []))


@contextlib.asynccontextmanager
async def serving(
    url: str, *, secrets: Secrets = SECRETS, **settings: Any
) -> AsyncGenerator[Service]:
    """Serve a database for as long as the block lasts."""
    given = Settings(database_url=url, **{"wait_timeout_s": 0.05, **settings})
    async with opened(given, secrets) as runtime:
        scrubber = Scrubber(runtime.log, interval_s=0)
        app = App(runtime, secrets, scrubber)
        with listening("127.0.0.1", 0) as (sockets,):
            port: int = sockets[0].getsockname()[1]
            async with (
                process.serving(app, given, sockets) as runner,
                ClientSession(f"http://127.0.0.1:{port}") as client,
            ):
                yield Service(runtime, runner, scrubber, client, port)
