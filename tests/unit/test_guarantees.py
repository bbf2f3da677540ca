"""What the documents promise is proved by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE, TEST = re.compile(r"`((?:tests|docs|benchmarks)/[\w/.-]+)`"), re.compile(r"`(test_\w+)`")


def guarantees(name: str) -> list[str]:
    """Return the cells that name what proves a guarantee."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.startswith("|")]
    return [row[2] for row in rows if "tests/" in row[2] or "make " in row[2]]


@pytest.mark.parametrize("name", ["README.md", "docs/guarantees.md"])
def test_every_named_test_exists(name: str) -> None:
    """A file that is named is there, and a test that is named is in one of its row's files."""
    rows = guarantees(name)
    assert len(rows) >= 10
    for row in rows:
        files = [ROOT / path for path in FILE.findall(row)]
        assert [path for path in files if not path.exists()] == []
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        for test in TEST.findall(row):
            assert f"def {test}(" in text, f"{name}: no test {test} in {row}"


def test_a_missing_test_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with a test that does not exist fails."""
    row = "| it works | `tests/unit/test_events.py` `test_no_such` |\n"
    (tmp_path / "README.md").write_text(row * 10)
    (tmp_path / "tests/unit").mkdir(parents=True)
    (tmp_path / "tests/unit/test_events.py").write_text("def test_other():\n    pass\n")
    monkeypatch.setattr("tests.unit.test_guarantees.ROOT", tmp_path)
    with pytest.raises(AssertionError, match="no test test_no_such"):
        test_every_named_test_exists("README.md")
