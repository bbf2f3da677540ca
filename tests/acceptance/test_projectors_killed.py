"""Two projectors under load, killed over and over: `make test ARGS=--kills=20` for longer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import environment

if TYPE_CHECKING:
    import pytest

SCRIPT = Path(__file__).parents[1] / "crash" / "projectors.py"


async def test_every_event_is_projected_once(pytestconfig: pytest.Config) -> None:
    """After every SIGKILL another goes on, and the read models are as an oracle folds them."""
    kills = pytestconfig.getoption("--kills")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), "--kills", str(kills), "--connections", "4"),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert "lost 0, doubled 0" in said.decode()
