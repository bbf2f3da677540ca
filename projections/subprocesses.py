"""Starting Python processes of this program, and how they ended."""

from __future__ import annotations

import json
import sys

from eventstore.errors import LogError

# What is imported stays, so looking for garbage among it takes a tenth of a start for nothing.
_START = (
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.argv[1]);"
    " from {module} import main; gc.enable(); main()"
)


# New objects after which garbage is looked for: folding makes none, who waits has fewer.
GARBAGE = 50_000


class WorkerError(LogError):
    """A worker process could not do its work; what others have done is kept."""


def command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module's `main` in a process with the same import path."""
    return (sys.executable, "-P", "-c", _START.format(module=module), json.dumps(sys.path))


def how_ended(code: int) -> str:
    """Put a process's return code in words."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
