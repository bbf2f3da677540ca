"""What is in docs to put userlog into service."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.monitoring import DOCS, run


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


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Every link between the documents leads to a file, and to a heading that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not anchor or anchor in anchors, target
