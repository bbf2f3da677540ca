"""What no terminal may get, and what has to come through as it is."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata

import msgspec
import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st
from rich.live import Live
from rich.progress import Progress, TextColumn
from rich.text import Text

from api.cli import main, output, streams
from api.cli.tables import Fitted, Lines
from api.observe.visible import VisibleStream, json_text, visible, visible_json
from tests.support.marks import MARKS

CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Of those categories, but with a shape of their own, or laying out hieroglyphs: Arabic, Syriac,
# Kaithi, Egyptian.
SEEN = {
    *map(chr, range(0x600, 0x606)),
    *map(chr, range(0x13430, 0x13460)),
    *"\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd",
}
# By their names: a virama, Persian, emoji of several.
HONEST = [
    "Zoë Ångström, Łódź, Ñandú",
    "वैशाली शर्मा",
    "क्\u200dष और क्\u200cष",
    "ര്\u200d",
    "র\u200d্যাব",
    "می\u200cخواهم",  # noqa: RUF001 - Persian
    "山田\U000e0100太郎",
    "ᠮᠣᠩᠭᠣᠯ\u180b",
    "👩🏽\u200d🚀 👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 🏳\ufe0f\u200d🌈 🙂\u200d\u2194\ufe0f",
    "a\u00a0b\u3000c",
    r"C:\x1b [red]x[/red] :smile: 50 % {x}",
    "",
]
SHOWN = {
    "\x1b]52;c;x\x07": r"\x1b]52;c;x\x07",
    "a\r\n\tb": r"a\r\n\tb",
    "\x9b\x85\x7f": r"\x9b\x85\x7f",
    "\u202egpj.exe": r"\u202egpj.exe",
    "\u2028\ufeff\U000e0041\ud800": r"\u2028\ufeff\U000e0041\ud800",
    "pay\u200dpal \u200c": r"pay\u200dpal \u200c",
    "क्\u200d\u200d\u200dष": r"क्" + "\u200d" + r"\u200d\u200dष",
    "👩\u200c🚀 👩\u200da": r"👩\u200c🚀 👩\u200da",
}


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_stays(text: str) -> None:
    """Ordinary text of any script is shown as it is, and JSON of it too."""
    assert visible(text) == text
    assert json_text([text]) == msgspec.json.encode([text]).decode()


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_is_shown(text: str) -> None:
    """What can't be seen is shown as an escape; once is enough."""
    assert visible(text) == SHOWN[text]
    assert visible(SHOWN[text]) == SHOWN[text]
    one = visible(text, lines=True)
    assert visible(f"{text}\n{text}", lines=True) == f"{one}\n{one}"


def test_all_of_unicode() -> None:
    """Every control, format character, separator and surrogate is escaped unless it has a shape."""
    raw = {
        char
        for char in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(char) in CATEGORIES and visible(char) == char
    }
    assert raw == {char for char in SEEN if unicodedata.category(char) in CATEGORIES}
    assert not [char for char in MARKS if visible(f"a{char}b") == f"a{char}b"]


@given(st.recursive(st.text() | st.text(MARKS), lambda some: st.dictionaries(st.text(MARKS), some)))
@example(MARKS)
@example({MARKS: 'a"\\' + MARKS})
def test_json_is_of_the_same_value(value: object) -> None:
    """JSON is in one line and has nothing that can't be seen, and decodes to the same value."""
    for text in (json_text(value), visible_json(json.dumps(value, ensure_ascii=False, indent=1))):
        assert visible(text) == text
        assert json.loads(text) == value
        assert msgspec.json.decode(text) == value


class _Tty(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def put_screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Put a terminal with colours in the place of the streams, and begin as a command does."""
    screen = _Tty()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, screen)
    streams.prepare()
    for console in (output.console, output.errors):
        monkeypatch.setattr(console, "_force_terminal", True)
        monkeypatch.setattr(console, "_color_system", 1)
        monkeypatch.setattr(console, "width", 4_000)
    return screen


def test_every_way_to_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever prints to the streams of a command, nothing raw goes through."""
    screen = put_screen(monkeypatch)
    name = f"[red]x[/red]{MARKS}"
    print(name)
    typer.echo(name)
    typer.echo(name, err=True)
    typer.secho(name)
    output.plain(name, name)
    output.error(name)
    output.table((name,), [(name,), (Lines((name, name)),), ([name],)], title=name)
    output.console.print(name, Text(name), Fitted([name], []), {"a": 1})
    with Live(Fitted(["n"], [[name]]), console=output.console):
        pass
    with Progress(TextColumn(name, markup=False), console=output.errors) as bar:
        bar.add_task(name)
    with pytest.raises(AttributeError):
        _ = sys.stdout.buffer
    assert isinstance(sys.stdout, VisibleStream)
    found = screen.getvalue()
    assert found.count("[red]x[/red]") >= 16
    for ours in ("\x1b[1m", "\x1b[0m", "\x1b[?25l", "\x1b[?25h"):  # bold, and the cursor of a bar
        assert ours in found
        found = found.replace(ours, "")
    found = re.sub(r"\r?\x1b\[(2K|1A)", "", found)
    assert [ascii(char) for char in MARKS if char in found and char not in "\r\n"] == []


def test_a_line_break_is_of_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value can't begin a line, other than where it is given as a line of its own."""
    screen = put_screen(monkeypatch)
    output.plain("a\nforged", "b")
    output.error("c\nforged")
    output.table(("d",), [("e\nforged",)], title="f\nforged")
    main._show(typer.BadParameter("g\nforged"))
    lines = screen.getvalue().splitlines()
    assert [line for line in lines if line.strip() == "forged"] == []
    assert len([line for line in lines if r"\nforged" in line]) == 5
