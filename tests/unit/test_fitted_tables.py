"""Tables fit their terminal, and show everything there."""

from __future__ import annotations

import pytest
from rich.console import Console

from api.cli.tables import Fitted

UUID = "0199f2ac-9d64-7c1e-8c53-5b9f1f3f9c11"
APP, USER = "000000000000000000000001", "6487fc9f66a6031a8b68f523"
COLUMNS = ("id", "why it is there", "application", "user")
ROWS = [(UUID, "the body is not JSON", APP, USER), ("2", "[red]ключ[/red]", APP, USER)]


def shown(width: int, table: Fitted) -> list[str]:
    """Print a table on so many columns, and return its lines."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", range(16, 170, 7))
def test_nothing_is_lost(width: int) -> None:
    """All text is there whatever the width, within it, and each id is whole where it has room."""
    lines = shown(width, Fitted(COLUMNS, ROWS, "a title"))
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    if width >= 40:
        for cell in (UUID, APP, USER, "[red]ключ[/red]"):
            assert cell in text
        for word in " ".join(COLUMNS).split():
            assert word in text
    packed = "".join(text.split())
    assert packed.count("6487") == 2
    assert len(packed) >= len("".join("".join(row) for row in ROWS).replace(" ", ""))


def test_wide_enough() -> None:
    """A table that fits has a line for each row, no wider than its text."""
    lines = shown(200, Fitted(COLUMNS, ROWS))
    assert len([line for line in lines if APP in line]) == 2
    assert len(lines[0].rstrip()) < 140


def test_words_wrap_first() -> None:
    """Text gives way to ids, which stay whole."""
    (first, *rest) = (line for line in shown(120, Fitted(COLUMNS, ROWS)) if "0" in line)
    assert (UUID in first, APP in first, USER in first) == (True, True, True)
    assert len(rest) == 1


def test_stacked() -> None:
    """Where the ids don't fit beside each other, a row is a line for each column."""
    lines = [line.split() for line in shown(60, Fitted(COLUMNS, ROWS, "two of them"))]
    assert lines[:5] == [
        ["two", "of", "them"],
        [],
        ["id", UUID],
        ["why", "it", "is", "there", "the", "body", "is", "not", "JSON"],
        ["application", APP],
    ]


def test_no_rows() -> None:
    """A table without rows shows its title."""
    assert "none" in "".join(shown(200, Fitted(COLUMNS, [], "none")))
    assert "none" in "".join(shown(20, Fitted(COLUMNS, [], "none")))
