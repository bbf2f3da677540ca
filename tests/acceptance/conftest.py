"""userlog as its users run it: a process of its own, on its own data directory."""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import aiohttp
import asyncpg
import msgspec
import pytest

from tests.support.processes import command_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


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

    def __init__(self, process: asyncio.subprocess.Process, base: str, token: str) -> None:
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
        signature = hmac.new(secret.encode(), body, "sha256").hexdigest()
        headers = {"x-fp-signature": signature}
        url = f"{self.base}/webhooks/fynd"
        async with aiohttp.request("POST", url, data=body, headers=headers) as response:
            return response.status

    def children(self) -> list[int]:
        """The processes that this one has started, PostgreSQL not among them."""
        of = Path(f"/proc/{self.process.pid}/task")
        found = " ".join(path.read_text() for path in of.glob("*/children")).split()
        return [pid for pid in map(int, found) if _program(pid).startswith("python")]

    async def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()


def _program(pid: int) -> str:
    return Path((command_line(pid) or [""])[0]).name


class Home:
    """A data directory, and the commands on it."""

    def __init__(
        self, folder: Path, program: tuple[str, ...], environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.program = program
        clean = {name: value for name, value in os.environ.items() if "USERLOG" not in name}
        self._environ = {**clean, "USERLOG_DATA_DIR": str(folder), **(environ or {})}

    async def run(self, *arguments: str) -> Finished:
        """Run a command to its end."""
        process = await self.start(*arguments)
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
        with log.open("ab") as stderr:  # a pipe that nobody reads would stop the service
            process = await self.start("serve", "--port", "0", *options, stderr=stderr)
        assert process.stdout
        greeting = (await process.stdout.readline()).decode()
        if " serves at " not in greeting:
            await process.wait()
            pytest.fail(f"the service did not start: {log.read_text()}")
        token = self._environ.get("USERLOG_API_TOKEN")
        token = token or (self.folder / "api-token").read_text().strip()
        service = Service(process, greeting.split()[-1], token)
        try:
            yield service
        finally:
            await service.stop()

    async def send(self, service: Service, *files: str) -> Any:
        """Post deliveries, the samples if none are named."""
        return await self.json("send", "--url", f"{service.base}/webhooks/fynd", *files)

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
            env=self._environ,
            cwd=self.folder.parent,
        )

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
        """Look behind the scenes, while a service runs."""
        connection = await asyncpg.connect(self.database_url())
        try:
            yield connection
        finally:
            await connection.close()

    def database_url(self) -> str:
        """Where the embedded PostgreSQL is, while it runs."""
        socket = (self.folder / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        return f"postgresql://postgres@/postgres?host={socket}"

    def postmaster(self) -> int:
        """The process id of the embedded PostgreSQL."""
        return int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty data directory."""
    return Home(tmp_path / "data", (sys.executable, "-m", "api"))


@pytest.fixture
def make_home() -> type[Home]:
    """For tests that need a home of another kind."""
    return Home
