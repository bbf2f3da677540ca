"""Commands in the process of the tests: `main` itself, with real streams and no start of Python."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog
import typer

from api.cli import output
from api.cli.main import app, main
from tests.support.processes import Finished, environment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


class Terminal(NamedTuple):
    """Where commands are run: what is set, how wide the terminal is, and where output goes.

    `out` is a file that is written to instead of what is returned.
    """

    environ: dict[str, str]
    columns: int = 80
    out: Path | int | None = None

    def where(self, **environ: str) -> Terminal:
        """The same where more is set."""
        return self._replace(environ=self.environ | environ)

    async def run(self, *arguments: str) -> Finished:
        """Run a command to its end, in a thread of its own as it has its own event loop."""
        return await asyncio.to_thread(self._run, arguments)

    def _run(self, arguments: tuple[str, ...]) -> Finished:
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            contextlib.ExitStack() as stack,
        ):
            given = out.fileno() if self.out is None else self.out
            stack.enter_context(_environ(self.environ | {"COLUMNS": str(self.columns)}))
            stack.enter_context(_width(self.columns))
            stack.enter_context(_logging_as_before())
            stack.enter_context(_streams(given, err.fileno(), ("userlog", *arguments)))
            code = _exit_code()
            stack.close()
            out.seek(0)
            err.seek(0)
            return Finished(code, out.read().decode(), err.read().decode())


def said(done: Finished) -> list[str]:
    """Return the lines of a command's errors, without what asyncio's debug mode says took long."""
    return [line for line in done.err.splitlines() if '"logger": "asyncio"' not in line]


def all_commands() -> set[tuple[str, ...]]:
    """Name every command, and those below another by both words."""
    group: Any = typer.main.get_command(app)
    return {
        (name, below) if below else (name,)
        for name, command in group.commands.items()
        for below in (getattr(command, "commands", None) or ("",))
    }


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    """Yield the end of a pipe that is written to, whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def _exit_code() -> int:
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@contextlib.contextmanager
def _environ(given: dict[str, str]) -> Generator[None]:
    before = dict(os.environ)
    wanted = environment(**given)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _width(columns: int) -> Generator[None]:
    """Set what a new process would read from COLUMNS; the consoles may have read it already."""
    consoles = (output.console, output.errors)
    before = [console._width for console in consoles]
    for console in consoles:
        console.width = columns
    try:
        yield
    finally:
        for console, width in zip(consoles, before, strict=True):
            console._width = width
            console._buffer.clear()  # of what a reader that had gone did not take


@contextlib.contextmanager
def _streams(out: Path | int, err: int, words: tuple[str, ...]) -> Generator[None]:
    """Put streams of a new process in the place of those of the tests."""
    before = sys.argv, sys.stdout, sys.stderr
    number = os.open(out, os.O_WRONLY) if isinstance(out, Path) else os.dup(out)
    with open(os.dup(err), "w", encoding="utf-8") as stderr:  # noqa: PTH123 - a descriptor
        stdout = io.TextIOWrapper(open(number, "wb"), encoding="utf-8")  # noqa: PTH123, SIM115
        sys.argv, sys.stdout, sys.stderr = list(words), stdout, stderr
        try:
            yield
        finally:
            sys.argv, sys.stdout, sys.stderr = before
            stdout.close()


@contextlib.contextmanager
def _logging_as_before() -> Generator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    raising = logging.raiseExceptions
    try:
        yield
    finally:
        logging.root.handlers[:], logging.raiseExceptions = handlers, raising
        logging.root.setLevel(level)
        structlog.reset_defaults()
