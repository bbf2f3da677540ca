"""userlog as it is installed: from its wheel, away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from hatchling.builders.wheel import WheelBuilder

if TYPE_CHECKING:
    from tests.support.processes import Home

ROOT = Path(__file__).parents[2]


async def test_the_wheel_serves(tmp_path: Path, own_home: Home) -> None:
    """Installed from its wheel into a new venv, outside the checkout, `userlog serve` works."""
    home = own_home.by(str(_install(tmp_path)))
    async with home.serving() as service:
        assert len(await home.send(service)) == 3
        assert (await service.get("/v1/status")).body["heads"][0]["position"] == "0:3"


def _install(folder: Path) -> Path:
    """Build the wheel and install it; return its command.

    Its dependencies come from the venv of the tests, so that no package index is needed.
    """
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    venv = folder / "venv"
    python = venv / "bin" / "python"
    _run(sys.executable, "-m", "venv", "--without-pip", venv)
    install = ("uv", "pip", "install", "--offline", "--no-deps", "--quiet")
    _run(sys.executable, "-m", *install, "--python", python, wheel)
    purelib = venv / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (purelib / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    found = _run(python, "-I", "-c", "import api; print(api.__file__)")
    assert found.startswith(str(purelib)), "the test would try out the checkout"
    return venv / "bin" / "userlog"


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
