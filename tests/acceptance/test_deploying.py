"""What is in docs for those who run userlog: the unit, links, and the runbook of each alert."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.monitoring import DOCS, RULES, run

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
