"""Services under load, each in a process of its own: userlog, and the one written by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import sys
from pathlib import Path
from subprocess import PIPE
from typing import IO, TYPE_CHECKING, NamedTuple

from common import MASTER_KEY
from load import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

TOKEN = "a-token-of-the-benchmarks"  # noqa: S105 - opens nothing else
_PORT = re.compile(rb"http://127\.0\.0\.1:(\d+)")
_HERE = Path(__file__).parent
_STOP_S = 60.0
SECRETS = {
    "USERLOG_WEBHOOK_SECRETS": SECRET,
    "USERLOG_API_TOKEN": TOKEN,
    "USERLOG_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
}


class NeverServedError(Exception):
    """A service has ended before it said where it answers."""


class Running(NamedTuple):
    """A service: its process, and the port where it answers."""

    pid: int
    port: int


@contextlib.asynccontextmanager
async def userlog_service(url: str, workers: int = 1) -> AsyncGenerator[int]:
    """Serve as `userlog serve` does, projector and all; yield the port."""
    environment = {
        **os.environ,
        **SECRETS,
        "USERLOG_DATABASE_URL": url,
        "USERLOG_REQUESTS_MAX": "1000",
    }
    options = ("-m", "api", "serve", "--port", "0", "--workers", str(workers))
    async with running((sys.executable, *options), environment) as service:
        yield service.port


@contextlib.asynccontextmanager
async def handwritten_service(url: str, connections: int) -> AsyncGenerator[int]:
    """Serve `handwritten.py`; yield the port. The table must be there."""
    command = (sys.executable, str(_HERE / "handwritten.py"), url, str(connections))
    async with running(command, os.environ) as service:
        yield service.port


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    log: IO[bytes] | None = None,
) -> AsyncGenerator[Running]:
    """Run a service, in a folder, which says where it answers; `log` gets what it logs.

    On leaving it is stopped, and killed if it does not end.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=log, env=dict(environment), cwd=folder
    )
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = await process.stdout.readline()
            if not line:
                raise NeverServedError(f"{' '.join(command)} ended before it served")
            found = _PORT.search(line)
        yield Running(process.pid, int(found[1]))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
