"""What commands write to the standard streams arrives whole."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

BYTES = 20_000_000
# Signals come all the time, as from children that end; each may end a system call early.
WRITER = f"""
import signal, sys
from api.cli import streams
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
streams.prepare()
if sys.argv[1] == "bytes":
    streams.write_bytes(b"x" * {BYTES})
else:
    sys.stdout.write("x" * {BYTES})
sys.stdout.flush()
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("what", ["bytes", "text"])
@pytest.mark.parametrize("unbuffered", ["1", ""], ids=["unbuffered", "buffered"])
async def test_much_at_once(what: str, unbuffered: str) -> None:
    """Also without buffers, as containers often run Python."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, what),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout
    size = 0
    while piece := await process.stdout.read(1 << 16):
        size += len(piece)
    assert (await process.wait(), size) == (0, BYTES)
