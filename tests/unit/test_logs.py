"""Log lines, and what never stands in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Literal

import pytest
import structlog

from api.observe import logs
from api.observe.visible import guarded
from tests.support.marks import MARKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "salman@example.com"
Style = Literal["text", "json"]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    structlog.reset_defaults()


@pytest.fixture(params=["text", "json"])
def style(request: pytest.FixtureRequest) -> Style:
    """Both renderings."""
    return "text" if request.param == "text" else "json"


def failure() -> Exception:
    """An exception with data in its message, its cause, its notes and its group."""
    error = ExceptionGroup(SECRET, [ValueError(SECRET)])
    error.add_note(SECRET)
    try:
        dict[str, str]()[SECRET]
    except KeyError as cause:
        error.__cause__ = cause
    with pytest.raises(ExceptionGroup) as raised:
        raise error
    return raised.value


def ours(error: Exception) -> None:
    """Log it as this project does."""
    log = structlog.stdlib.get_logger("userlog")
    log.error("it failed", exc_info=error)
    try:
        raise error
    except ExceptionGroup:
        log.exception("it failed again")


def library(error: Exception) -> None:
    """Log it as a library does, well or badly."""
    log = logging.getLogger("library")
    log.error("row %s refused: %s", SECRET, error, exc_info=error)
    log.error("only one %s", SECRET, error)  # noqa: PLE1205 - a library's mistake
    log.error("by name %(email)s", {"email": SECRET}, extra={"email": SECRET})
    log.error(error)


def loop(error: Exception) -> None:
    """Log it as asyncio does when nobody has looked at a task."""
    running = asyncio.new_event_loop()
    about: dict[str, Any] = {"message": "Task exception was never retrieved", "exception": error}
    running.call_exception_handler({**about, "future": [error]})
    running.close()


@pytest.mark.parametrize("say", [ours, library, loop], ids=["ours", "library", "asyncio"])
def test_no_data_in_any_line(
    style: Style, say: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither an exception's message nor what a library fills into its lines is written."""
    logs.configure("debug", style)
    say(failure())
    output = capsys.readouterr()
    assert "salman" not in output.out + output.err
    assert "ExceptionGroup" in output.err
    assert "KeyError" in output.err
    assert "test_logs.py" in output.err


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is one JSON object with event, level and time; an exception is types and places."""
    logs.configure("info", "json")
    ours(failure())
    logging.getLogger("library").warning("%d rows", 3)
    first, _, last = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"]) == ("it failed", "error")
    assert first["raised"] == ["ExceptionGroup", "KeyError"]
    assert [place.split()[-1] for place in first["places"]] == ["failure"]
    assert (last["event"], last["logger"], last["level"]) == ("%d rows", "library", "warning")
    assert first["timestamp"].endswith("Z")


class _Pieces(io.RawIOBase):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.written.append(bytes(piece))
        return len(piece)


def test_a_line_is_one_write(style: Style, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes that write to one place, also unbuffered, no two lines run together."""
    pieces = _Pieces()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(pieces, write_through=True))  # type: ignore[type-var] # typeshed: RawIOBase is no buffer
    logs.configure("info", style)
    structlog.stdlib.get_logger("userlog").info("serving")
    logging.getLogger("library").warning("rows")
    assert [piece.endswith(b"\n") for piece in pieces.written] == [True, True]


def test_a_line_is_visible(style: Style, monkeypatch: pytest.MonkeyPatch) -> None:
    """What controls a terminal is written out, past the guard of a command's streams."""
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", guarded(lines))
    logs.configure("info", style)
    log = structlog.stdlib.get_logger("userlog")
    log.info(MARKS, text=MARKS, texts=[MARKS], known={MARKS: MARKS})
    controls = [char for char in MARKS if not char.isprintable()]
    found = re.sub(r"\x1b\[\d*m", "", lines.getvalue())  # the colours of the renderer
    assert [ascii(char) for char in controls if char in found.removesuffix("\n")] == []
    assert found.count("202e") == 5
    if style == "json":
        assert json.loads(found)["text"] == MARKS
    else:
        assert "\x1b[" in lines.getvalue()


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For people the same is text, one line each."""
    logs.configure("info", "text")
    structlog.stdlib.get_logger("userlog").info("serving", port=8080)
    ours(failure())
    serving, failed, _ = capsys.readouterr().err.splitlines()
    assert "serving" in serving
    assert "8080" in serving
    assert "it failed" in failed


def test_auto_is_json_where_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the automatic format is JSON."""
    logs.configure("info", "auto")
    structlog.stdlib.get_logger("userlog").info("serving")
    assert json.loads(capsys.readouterr().err)["event"] == "serving"


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_levels(level: str, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not written; of libraries never more than warnings."""
    logs.configure(level, "json")
    log = structlog.stdlib.get_logger("userlog")
    for say in (log.debug, log.info, log.warning, log.error):
        say("line")
    logging.getLogger("library").info("line")
    assert capsys.readouterr().err.count('"line"') == expected


def test_throttled(capsys: pytest.CaptureFixture[str]) -> None:
    """What goes on happening is said at once, and then not before it is time, with its number."""
    logs.configure("info", "json")
    throttled, log = logs.ThrottledLog(every_s=3600), structlog.stdlib.get_logger("test")
    for _ in range(3):
        throttled.warning(log, "away", why="gone")
    throttled.warning(log, "full")
    for same in ("a 401", "a 400", "a 401"):
        throttled.info(log, "request", same)
    often = logs.ThrottledLog(every_s=0)
    for _ in range(2):
        often.warning(log, "away")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["event"], one["times"]) for one in said] == [
        *(("away", 1), ("full", 1), ("request", 1), ("request", 1), ("away", 1), ("away", 1))
    ]
