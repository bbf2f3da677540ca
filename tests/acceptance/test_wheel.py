"""userlog as it is installed: from its wheel, away from the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from tests.support.processes import Home

ROOT = Path(__file__).parents[2]


async def test_the_wheel_serves(tmp_path: Path, own_home: Home) -> None:
    """Installed from its wheel into a new venv, outside the checkout, `userlog serve` works."""
    home = own_home.by(str(_install(tmp_path)))
    async with home.serving() as service:
        assert len(await home.send(service)) == 3
        assert (await service.get("/v1/status")).body["heads"][0]["position"] == "0:3"


def test_the_same_bytes(tmp_path: Path) -> None:
    """Whenever a wheel is built, it is the same."""
    built: list[bytes] = []
    for name in ("one", "two"):
        (wheel,) = WheelBuilder(str(ROOT)).build(
            directory=str(tmp_path / name), versions=["standard"]
        )
        built.append(Path(wheel).read_bytes())
    assert built[0] == built[1]


def test_the_lock_of_an_installation() -> None:
    """It has what the service needs, in the versions that the tests run with, and no more."""
    locked = _pins("requirements.lock")
    assert locked.items() <= _pins("requirements-otel.lock").items()
    assert locked.items() <= _pins("requirements-dev.lock").items()
    assert not locked.keys() & {"pytest", "ruff", "hatchling", "mypy", "uv"}
    needed, seen = ["userlog"], set[str]()
    while needed:
        name = needed.pop()
        for text in metadata.requires(name) or []:
            one = Requirement(text)
            wanted = one.marker is None or one.marker.evaluate({"extra": ""})
            if wanted and one.name not in seen:
                seen.add(one.name)
                needed.append(one.name)
    assert {canonicalize_name(name) for name in seen} <= locked.keys()
    for name, number in locked.items():
        if name in seen:
            assert metadata.version(name) == number


def _pins(name: str) -> dict[str, str]:
    """Return what a lock pins; every line that pins has a hash."""
    text = (ROOT / name).read_text()
    assert "://" not in text, "an index or a host"
    pins = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^ ;\\]+)", text, flags=re.MULTILINE))
    assert text.count("--hash=sha256:") >= len(pins) > 0
    return pins


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
