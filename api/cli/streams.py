"""The three standard streams: there, showing whatever is written, and quiet once they are broken.

All that a command prints passes here. Text can't be written without being made visible; JSON,
which is made visible in its own way, is written as bytes by `write_bytes`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import cast

from api.observe.visible import behind, guarded


def prepare() -> None:
    """Make sure that each stream is there, and lets no character through that can't be seen."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as `>&-` does
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _buffered(cast("io.TextIOWrapper", stream)))
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)


def _buffered(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Put a buffer into a stream that Python has left without one (PYTHONUNBUFFERED).

    Without it a long write ends early when a signal comes, and the rest would be lost unseen.
    """
    if isinstance(stream.buffer, io.RawIOBase):
        raw, encoding = cast("io.FileIO", stream.buffer), stream.encoding
        stream.detach()
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, line_buffering=True)
    stream.reconfigure(errors="backslashreplace")
    return stream


def write_bytes(data: bytes) -> None:
    """Write to standard output as it is: a file, or text that is visible already."""
    behind(sys.stdout).buffer.write(data)


def give_up() -> None:
    """Write what is left, or drop it: the end of the program must not fail because of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), stream.fileno())
