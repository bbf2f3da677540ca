"""Files of lines, read and written; .gz and .zst are compressed.

An error of the system names the file, also where the system itself does not (a disk that is full).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import zstandard

from api.cli import streams
from api.cli.shared import FailedError
from api.observe.visible import visible_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


class _Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...
    def close(self) -> object: ...


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Let what goes wrong with a file name it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError):
        raise FailedError(
            f"can't unpack {path}: it is cut off, or not what its name says"
        ) from None
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def writing_document(path: Path | None) -> Generator[Callable[[bytes], object]]:
    """Yield what writes a document in pieces, as `writing` does lines."""
    with writing(path, ending=b"") as write:
        yield write
        write(b"\n")


@contextlib.contextmanager
def writing(path: Path | None, ending: bytes = b"\n") -> Generator[Callable[[bytes], object]]:
    """Yield what writes a line to a file, or to standard output.

    The file is its owner's alone, as what is written may be about persons. A line is written byte
    for byte, but to a terminal made visible: imported, it is the same.
    """
    if path is None:
        on_terminal = sys.stdout.isatty()

        def show(line: bytes) -> None:
            seen = visible_json(line.decode(errors="replace")).encode() if on_terminal else line
            streams.write_bytes(seen + ending)

        yield show
        sys.stdout.flush()
        return
    # A device or a pipe is written to as it is.
    whole = path.is_file() or not path.exists()
    partial = path.with_name(f"{path.name}.partial") if whole else path
    with naming(path):
        if whole:
            partial.touch(mode=0o600)
            partial.chmod(0o600)  # an export that was killed may have left one
        file = _packing(partial, path.suffix)

    def write(line: bytes) -> None:
        with naming(path):
            file.write(line + ending)

    try:
        yield write
        with naming(path):
            file.close()
            if whole:
                partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if whole:
            partial.unlink(missing_ok=True)
        raise


def _packing(path: Path, suffix: str) -> _Writer:
    if suffix == ".gz":
        return gzip.GzipFile(path, "wb")
    if suffix == ".zst":
        return zstandard.ZstdCompressor().stream_writer(path.open("wb"))
    return path.open("wb")


def check(names: list[str]) -> None:
    """Look whether files can be read, before anything is made for what is in them."""
    for name in names:
        if name != "-":
            with naming(Path(name)), Path(name).open("rb"):
                pass


def lines(name: str, update: Callable[[int, int], None]) -> Iterator[bytes]:
    """Yield a file's lines, telling how many bytes of how many are read; `-` is standard input."""
    if name == "-":
        yield from sys.stdin.buffer
        return
    path = Path(name)
    with naming(path), path.open("rb") as raw:
        size = path.stat().st_size
        for line in _unpacked(path, raw):
            update(raw.tell(), size)
            yield line


def _unpacked(path: Path, raw: BinaryIO) -> Iterator[bytes]:
    if path.suffix == ".gz":
        return iter(gzip.GzipFile(fileobj=raw))
    if path.suffix == ".zst":
        reader = zstandard.ZstdDecompressor().stream_reader(raw)
        return iter(io.BufferedReader(reader))
    return iter(raw)
