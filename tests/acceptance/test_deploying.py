"""What is in docs for those who run userlog: the unit, links, and the runbook of each alert."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import confined as CONFINED  # noqa: N812 - a script
from tests.support.deliveries import APP, delivery
from tests.support.monitoring import DOCS, RULES, run
from tests.support.processes import PROGRAM, Home, configured
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

# In tenths, as the tool counts.
EXPOSURE_MAX = 20
# `nobody`, as which the script runs commands.
ACCOUNT = 65534
ROOT = DOCS.parent
ALERT = re.compile(r"- alert: (\w+)")
RUNBOOK = re.compile(r"runbook_url: (\S+)")


def headings(page: Path) -> list[str]:
    """Return the headings of a document."""
    return re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading, to link to it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


async def test_unit(tmp_path: Path) -> None:
    """The tool of systemd has nothing to say about the unit."""
    tool = shutil.which("systemd-analyze")
    if tool is None or os.geteuid() != 0:
        pytest.skip("systemd-analyze is not there, or not root")
    text = (DOCS / "userlog.service").read_text()
    here = Path(sys.executable).with_name("userlog")
    unit = tmp_path / "userlog.service"
    unit.write_text(text.replace("/opt/userlog/bin/userlog", str(here)))
    assert await run(tool, "verify", str(unit)) == ""
    await run(tool, "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(unit))


@pytest.fixture
def confined() -> Iterator[Home]:
    """A data directory of an account without rights, where commands run as the unit has them."""
    tools = [shutil.which(name) for name in ("systemd-analyze", "setpriv", "mount")]
    if None in tools or os.geteuid() != 0 or ctypes.util.find_library("seccomp") is None:
        pytest.skip("not root, or without setpriv, mount, systemd-analyze or libseccomp")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="userlog-test-") as made:
        folder = Path(made) / "data"
        folder.mkdir(mode=0o700)
        os.chown(folder, ACCOUNT, ACCOUNT)
        Path(made).chmod(0o755)
        secrets = {name: text for name, text in configured("").items() if text}
        # It can't write what a run with coverage would.
        secrets |= {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
        program = (sys.executable, "-P", CONFINED.__file__, DOCS / "userlog.service", folder)
        yield Home(folder, secrets).by(*map(str, program), *PROGRAM)


def status_of(pid: int) -> str:
    """Return what the kernel says of a process."""
    return Path(f"/proc/{pid}/status").read_text()


async def test_under_the_restrictions_of_the_unit(confined: Home) -> None:
    """It takes, projects, answers, reloads and stops without what the unit takes from it."""
    tried = CONFINED.directives(DOCS / "userlog.service").keys()
    assert tried >= CONFINED.NOT_TRIED.keys()
    async with confined.serving() as service:
        for n in range(3):
            assert await service.post(delivery(f"u{n}"), confined.secret) == 200
        asked = await service.get(f"/v1/applications/{APP}/users/u2?min_position=0:3")
        assert asked.status == 200
        service.process.send_signal(signal.SIGHUP)
        log = confined.folder.with_suffix(".log")
        await until(lambda: "secrets renewed" in log.read_text())
        status = status_of(service.process.pid)
        for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000"):
            assert line in status
        assert await service.stop(signal.SIGTERM) == 0
    assert confined.warnings() == []


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")]), ids=lambda page: page.name
)
def test_links(page: Path) -> None:
    """Every link between the documents leads to a file, and to a heading that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        assert not fragment or fragment in map(anchor, headings(file)), target


def test_runbooks() -> None:
    """Every alert leads to a heading of its own, and every such heading belongs to an alert."""
    _, *alerts = re.split(r"(?=- alert: )", RULES.read_text())
    links = [(ALERT.findall(one), RUNBOOK.findall(one)) for one in alerts]
    names = [name for found, _ in links for name in found]
    assert links == [([name], [f"docs/operations.md#{anchor(name)}"]) for name in names]
    written = [one for one in headings(DOCS / "operations.md") if one.startswith("Userlog")]
    assert written == names


async def test_an_address_before_the_runbooks() -> None:
    """The documented command makes URLs of all of them, and changes nothing else."""
    text = (DOCS / "monitoring.md").read_text()
    (command,) = re.findall(r"^(sed .*) > alerts\.yml$", text, flags=re.MULTILINE)
    made = await run("sh", "-c", f"cd '{ROOT}' && {command}")
    address = "https://git.example.com/userlog/blob/main/"
    assert made.count(f"runbook_url: {address}docs/") == len(RUNBOOK.findall(made)) > 0
    assert made.replace(address, "") == RULES.read_text()
