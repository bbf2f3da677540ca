"""Where settings come from.

From the environment; a secret also from a file named by its variable with `_FILE` at its end, and
a master key from what a command prints, named by the one with `_COMMAND`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "USERLOG_"
SECRETS = ("webhook_secrets", "master_key", "previous_master_key", "api_token")
URLS = ("database_url", "owner_database_url")
# It may have a password in it.
HEADS_URL = "signed_heads_url"
_IN_FILES = (*URLS, *SECRETS, HEADS_URL)
_KEYS = ("master_key", "previous_master_key")
# Its file may be there before a rotation and after it, so that a reload alone brings it.
MAY_BE_EMPTY = "previous_master_key"
_COMMAND_S = 30
# Far more than any secret has.
_BYTES_MAX = 1 << 16


class _TooMuchError(Exception):
    """A command prints more than a secret can have."""


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it, its problem and an example."""


def find(name: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return where a setting comes from, and its text, None if it is not set.

    SettingsError if it can't be read, or if a file or what a command prints is empty, but for the
    file of the previous master key.
    """
    variable = PREFIX + name.upper()
    if environ.get(variable):
        return "environment", environ[variable]
    path = environ.get(f"{variable}_FILE")
    if path and name in _IN_FILES:
        return "file", _content(f"{variable}_FILE", path, empty=name == MAY_BE_EMPTY)
    command = environ.get(f"{variable}_COMMAND")
    if command and name in _KEYS:
        return "command", _printed(f"{variable}_COMMAND", command, environ)
    return "default", None


def readable_by_others(environ: Mapping[str, str] | None = None) -> list[str]:
    """Name the variables of those files of secrets that every account of the machine can read."""
    environ = os.environ if environ is None else environ
    variables = [PREFIX + name.upper() for name in _IN_FILES]
    given = [
        f"{one}_FILE" for one in variables if environ.get(f"{one}_FILE") and not environ.get(one)
    ]
    return [one for one in given if Path(environ[one]).stat().st_mode & stat.S_IROTH]


def _content(variable: str, path: str, *, empty: bool) -> str | None:
    example = f"example: {variable}=/run/secrets/userlog"
    try:
        with Path(path).open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read(_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        problem = type(error).__name__
        raise SettingsError(f"{variable} can't be read ({problem}); {example}") from None
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IWOTH:
        raise SettingsError(
            f"{variable} names a file that every account can write to; chmod o-rwx {path}"
        )
    if len(text) > _BYTES_MAX:
        raise SettingsError(f"{variable} names a file that is too large for a secret; {example}")
    text = text.strip()
    if not text and not empty:
        raise SettingsError(f"{variable} names an empty file; {example}")
    return text or None


def _printed(variable: str, command: str, environ: Mapping[str, str]) -> str:
    """Return what a command of the operator's prints; what it says besides goes to the terminal."""
    example = f"example: {variable}='aws kms decrypt … --output text --query Plaintext'"
    try:
        text = _output(command, environ).decode().strip()
    except OSError as error:
        problem = f"can't be started ({error.strerror})"
    except subprocess.CalledProcessError as error:
        problem = f"ended with exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"took longer than {_COMMAND_S} seconds"
    except _TooMuchError:
        problem = "printed more than a key"
    except UnicodeDecodeError:
        problem = "printed what is no text"
    else:
        if text:
            return text
        problem = "printed nothing"
    raise SettingsError(f"{variable} {problem}; {example}") from None


def _output(command: str, environ: Mapping[str, str]) -> bytes:
    """Return what a command prints; one that is not waited for is killed with what it started."""
    ends = time.monotonic() + _COMMAND_S
    with subprocess.Popen(  # noqa: S602 - who sets it runs userlog
        command,
        shell=True,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout  # noqa: S101 - a pipe was asked for
            printed = _read(process.stdout.fileno(), ends)
            code = process.wait(max(0.0, ends - time.monotonic()))
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)
    return printed


def _read(pipe: int, ends: float) -> bytes:
    printed = b""
    while _readable(pipe, ends):
        piece = os.read(pipe, _BYTES_MAX)
        printed += piece
        if not piece:
            return printed
        if len(printed) > _BYTES_MAX:
            raise _TooMuchError
    raise subprocess.TimeoutExpired("", _COMMAND_S)


def _readable(pipe: int, ends: float) -> bool:
    waiting = select.poll()  # select() knows no descriptor from 1,024 on
    waiting.register(pipe, select.POLLIN)
    return bool(waiting.poll(max(0.0, ends - time.monotonic()) * 1_000))
