"""Where the value of a setting comes from: a variable, a file, or what a command prints."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMAND_S = 30


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it, its problem and an example."""


def find(
    variable: str, environ: Mapping[str, str], *, file: bool, command: bool, empty: bool
) -> tuple[str, str | None]:
    """Return where a variable's value comes from, and the value; None if it is not set.

    It may be in a file that `<variable>_FILE` names if `file`, and be printed by what
    `<variable>_COMMAND` runs if `command`. SettingsError if there is none, or an empty one unless
    `empty`, which counts as not set.
    """
    if environ.get(variable):
        return "environment", environ[variable]
    path = environ.get(f"{variable}_FILE")
    if file and path:
        return "file", _content(f"{variable}_FILE", path, empty=empty)
    program = environ.get(f"{variable}_COMMAND")
    if command and program:
        return "command", _printed(f"{variable}_COMMAND", program, environ)
    return "default", None


def _printed(variable: str, command: str, environ: Mapping[str, str]) -> str:
    """Return what a command of the operator's prints; what it says besides goes to the terminal."""
    example = f"example: {variable}='aws kms decrypt … --output text --query Plaintext'"
    try:
        done = subprocess.run(  # noqa: S602 - who sets it runs userlog
            command,
            shell=True,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_S,
            check=True,
        )
        text = done.stdout.decode().strip()
    except subprocess.CalledProcessError as error:
        problem = f"ended with exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"took longer than {_COMMAND_S} seconds"
    except UnicodeDecodeError:
        problem = "printed what is no text"
    else:
        if text:
            return text
        problem = "printed nothing"
    raise SettingsError(f"{variable} {problem}; {example}") from None


def _content(variable: str, path: str, *, empty: bool) -> str | None:
    example = f"example: {variable}=/run/secrets/userlog"
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = type(error).__name__
        raise SettingsError(f"{variable} can't be read ({problem}); {example}") from None
    if not text and not empty:
        raise SettingsError(f"{variable} names an empty file; {example}")
    return text or None
