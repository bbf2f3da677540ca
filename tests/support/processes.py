"""userlog as its users run it: commands and a service that are processes of their own."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import aiohttp
import msgspec
import pytest

from tests.conftest import MASTER_KEY
from tests.support.database import connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import asyncpg

    from tests.support.nursery import Forked, Nursery

PROGRAM = (sys.executable, "-m", "api")
SECRET, TOKEN = "a-secret-of-the-tests", "a-token-of-the-tests"
# aiohttp reads the system's certificates when it is imported, a third of a start; nobody needs one.
_NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull}


def configured(url: str, key: bytes = MASTER_KEY) -> dict[str, str]:
    """Settings of a userlog on a server, with the secrets that it needs there."""
    return {
        "USERLOG_DATABASE_URL": url,
        "USERLOG_MASTER_KEY": base64.b64encode(key).decode(),
        "USERLOG_WEBHOOK_SECRETS": SECRET,
        "USERLOG_API_TOKEN": TOKEN,
    }


def environment(**given: str) -> dict[str, str]:
    """The environment without settings of userlog but these."""
    clean = {name: value for name, value in os.environ.items() if "USERLOG" not in name}
    return clean | _NO_CERTIFICATES | given


def command_line(pid: int) -> list[str]:
    """What a process was started with; empty of one that has ended, or is ending."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word for word in words if word]


class Finished(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: Any


class Service:
    """A running `userlog serve`."""

    def __init__(self, process: asyncio.subprocess.Process | Forked, base: str, token: str) -> None:
        self.process = process
        self.base = base
        self._headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str, token: str | None = None) -> Answer:
        """Ask, with the token of the first start unless another is given."""
        headers = self._headers if token is None else {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(self.base + path) as response,
        ):
            return Answer(response.status, msgspec.json.decode(await response.read()))

    async def post(self, body: bytes, secret: str) -> int:
        """Post a delivery as the platform does, on a connection of its own; return the status."""
        return (await self.deliver(body, secret)).status

    async def deliver(self, body: bytes, secret: str) -> Answer:
        """Do the same, and return the answer."""
        signature = hmac.new(secret.encode(), body, "sha256").hexdigest()
        headers = {"x-fp-signature": signature}
        url = f"{self.base}/webhooks/fynd"
        async with aiohttp.request("POST", url, data=body, headers=headers) as response:
            return Answer(response.status, msgspec.json.decode(await response.read()))

    def children(self) -> list[int]:
        """The processes that this one has started, PostgreSQL not among them."""
        of = Path(f"/proc/{self.process.pid}/task")
        found = " ".join(path.read_text() for path in of.glob("*/children")).split()
        return [pid for pid in map(int, found) if _program(pid).startswith("python")]

    async def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        return await _stop(self.process, how)


async def _stop(process: asyncio.subprocess.Process | Forked, how: int) -> int:
    if process.returncode is None:
        process.send_signal(how)
    return await process.wait()


def _program(pid: int) -> str:
    return Path((command_line(pid) or [""])[0]).name


@dataclass(frozen=True)
class Home:
    """A data directory, what is set besides, and the commands that are run there.

    With a nursery, `run`, `json`, `send` and `serving` fork it.
    """

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = PROGRAM
    nursery: Nursery | None = None

    def where(self, **environ: str) -> Home:
        """The same where more is set."""
        return replace(self, environ={**self.environ, **environ})

    def by(self, *program: str) -> Home:
        """The same by another program."""
        return replace(self, program=program)

    def alone(self) -> Home:
        """The same where each process starts by itself."""
        return replace(self, nursery=None)

    async def run(self, *arguments: str) -> Finished:
        """Run a command to its end."""
        process = await self._begin(*arguments)
        out, err = await process.communicate()
        return Finished(await process.wait(), out.decode(), err.decode())

    async def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, and read the JSON that it prints."""
        done = await self.run(*arguments, "--json")
        assert done.code == 0, done.err
        return msgspec.json.decode(done.out)

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncGenerator[Service]:
        """Serve on a free port; on leaving, stop it unless the test has."""
        log = self.folder.with_suffix(".log")
        with log.open("ab") as stderr:  # a pipe that is not read would stop the service
            process = await self._begin("serve", "--port", "0", *options, stderr=stderr)
        assert process.stdout
        try:
            greeting = (await process.stdout.readline()).decode()
            if " serves at " not in greeting:
                await process.wait()
                pytest.fail(f"the service did not start: {log.read_text()}")
            yield Service(process, greeting.split()[-1], self.token)
        finally:
            await _stop(process, signal.SIGINT)

    def warnings(self) -> list[str]:
        """What services have logged here that is more than information."""
        text = self.folder.with_suffix(".log").read_text(encoding="utf-8")
        lines = map(msgspec.json.decode, text.splitlines())
        # In debug mode asyncio says what took long.
        return [
            line["event"]
            for line in lines
            if line["level"] != "info" and line.get("logger") != "asyncio"
        ]

    async def send(self, service: Service, *files: str) -> Any:
        """Post deliveries, the samples if none are named."""
        return await self.json("send", "--url", f"{service.base}/webhooks/fynd", *files)

    async def _begin(
        self, *arguments: str, stderr: BinaryIO | None = None
    ) -> asyncio.subprocess.Process | Forked:
        if self.nursery is None or self.program != PROGRAM:
            return await self.start(*arguments, stderr=stderr or subprocess.PIPE)
        return await self.nursery.start(arguments, self._environment(), self.folder.parent, stderr)

    def _environment(self) -> dict[str, str]:
        return environment(USERLOG_DATA_DIR=str(self.folder), **self.environ)

    async def start(
        self, *arguments: str, stderr: BinaryIO | int = subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        """Begin a command."""
        return await asyncio.create_subprocess_exec(
            *self.program,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self._environment(),
            cwd=self.folder.parent,
        )

    @property
    def token(self) -> str:
        """What opens everything."""
        return self.environ.get("USERLOG_API_TOKEN") or self._made("api-token")

    @property
    def secret(self) -> str:
        """What deliveries are signed with."""
        return self.environ.get("USERLOG_WEBHOOK_SECRETS") or self._made("webhook-secret")

    def _made(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
        """Look behind the scenes, while a service runs."""
        async with connected(self.database_url()) as connection:
            yield connection

    def database_url(self) -> str:
        """Where the database is; the embedded PostgreSQL only while it runs."""
        url = self.environ.get("USERLOG_DATABASE_URL")
        if url is None:
            url = f"postgresql://postgres@/postgres?host={self._postmaster()[4]}"
        return url

    def postmaster(self) -> int:
        """The process id of the embedded PostgreSQL."""
        return int(self._postmaster()[0])

    def _postmaster(self) -> list[str]:
        return (self.folder / "postgres" / "postmaster.pid").read_text().splitlines()
