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
from typing import TYPE_CHECKING

from common import MASTER_KEY
from load import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

TOKEN = "a-token-of-the-benchmarks"  # noqa: S105 - opens nothing else
_PORT = re.compile(rb"http://127\.0\.0\.1:(\d+)")
_HERE = Path(__file__).parent


@contextlib.asynccontextmanager
async def userlog_service(url: str, workers: int = 1) -> AsyncGenerator[int]:
    """Serve as `userlog serve` does, projector and all; yield the port."""
    environment = {
        "USERLOG_DATABASE_URL": url,
        "USERLOG_WEBHOOK_SECRETS": SECRET,
        "USERLOG_API_TOKEN": TOKEN,
        "USERLOG_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "USERLOG_REQUESTS_MAX": "1000",
    }
    command = ("-m", "api", "serve", "--port", "0", "--workers", str(workers))
    async with _running(command, environment) as port:
        yield port


@contextlib.asynccontextmanager
async def handwritten_service(url: str, connections: int) -> AsyncGenerator[int]:
    """Serve `handwritten.py`; yield the port. The table must be there."""
    async with _running((str(_HERE / "handwritten.py"), url, str(connections)), {}) as port:
        yield port


@contextlib.asynccontextmanager
async def _running(
    arguments: tuple[str, ...], environment: Mapping[str, str]
) -> AsyncGenerator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"{arguments} ended before it served")
            found = _PORT.search(line)
        yield int(found[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
