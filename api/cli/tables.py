"""Tables that fit the terminal, and lose nothing where it is narrow.

Cells wrap between words, so that an id stays whole and can be copied. Where even that takes more
than the width, each row becomes a stack of lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.observe.visible import json_text, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

# The longest text that stays whole: two ids with a slash between. JSON may be longer.
_WHOLE = 49
# What a column has beside its text, and the table beside its columns.
_BESIDE_CELL, _BESIDE_TABLE = 3, 1
_INDENT = 2


class Lines(tuple[str, ...]):
    """A cell of several lines."""

    __slots__ = ()


class Fitted:
    """A table that is laid out when its width is known."""

    def __init__(
        self, columns: Iterable[str], rows: Iterable[Iterable[object]], title: str = ""
    ) -> None:
        """Cells are text of one line, never markup, or Lines; what is neither is shown as JSON."""
        self._columns = tuple(columns)
        self._rows = [[_text(value) for value in row] for row in rows]
        self._title = visible(title)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out; called by rich."""
        room = options.max_width - _BESIDE_CELL * len(self._columns) - _BESIDE_TABLE
        columns = zip(self._columns, *self._rows, strict=True)
        widths = _shared(room, [_widths(cells) for cells in columns])
        if widths is not None:
            yield self._side_by_side(widths)
            return
        if self._title:
            yield Text(self._title, style="bold")
        for row in self._rows:
            yield Padding(self._stacked(row, options.max_width - _INDENT), (1, 0, 0, _INDENT))
        yield Text()

    def _side_by_side(self, widths: Sequence[int]) -> Table:
        made = Table(
            title=Text(self._title, style="bold") if self._title else None,
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        for name, width in zip(self._columns, widths, strict=True):
            made.add_column(name, overflow="fold", width=width)
        for row in self._rows:
            made.add_row(*map(Text, row))
        return made

    def _stacked(self, row: Sequence[str], room: int) -> Table:
        """Show a row as lines: each cell beside its heading, or below where it would be broken."""
        beside = max(map(cell_len, self._columns)) + _INDENT + _widths(row)[0] <= room
        made = Table.grid(padding=(0, _INDENT, 0, 0) if beside else 0)
        for name, cell in zip(self._columns, row, strict=True):
            value = Text(cell, overflow="fold")
            if beside:
                made.add_row(Text(name), value)
            else:
                made.add_row(Text(name, overflow="fold"))
                made.add_row(Padding(value, (0, 0, 0, _INDENT)))
        return made


def _text(value: object) -> str:
    if isinstance(value, Lines):
        return "\n".join(map(visible, value))
    return visible(value) if isinstance(value, str) else json_text(value)


def _widths(cells: Iterable[str]) -> tuple[int, int]:
    """Return how wide a column must be at least, and how wide it would be with all the room."""
    texts = list(cells)
    words = (cell_len(word) for text in texts for word in text.split())
    lines = (cell_len(line) for text in texts for line in text.splitlines())
    return min(max(words, default=1), _WHOLE), max(lines, default=1)


def _shared(room: int, columns: Sequence[tuple[int, int]]) -> list[int] | None:
    """Share the room among columns, the narrow ones first; None if there is not enough."""
    widths = [least for least, _ in columns]
    for _ in range(room - sum(widths)):
        growing = [i for i, (_, most) in enumerate(columns) if widths[i] < most]
        if not growing:
            break
        widths[min(growing, key=widths.__getitem__)] += 1
    return widths if sum(widths) <= room else None
