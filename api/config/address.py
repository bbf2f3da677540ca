"""The address at which a service answers, left in its data directory for commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from api.config.settings import Settings

_FILE = "address"


def base_url(host: str, port: int) -> str:
    """Return the beginning of all URLs of a service."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def left(settings: Settings, base: str) -> Generator[None]:
    """Leave the address for as long as the block lasts, if there is a data directory.

    It counts while its file is locked: one that was killed leaves nothing that counts. Of two
    services the first one's stays.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            # A link would be followed with the rights of this process.
            how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(Path(settings.data_dir) / _FILE, how, 0o600)
            file = stack.enter_context(os.fdopen(descriptor, "w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"{base}\n")
            file.flush()
        yield


def address_of(settings: Settings) -> str:
    """Return where the service of a data directory answers; the settings' address if none does."""
    with contextlib.suppress(OSError), (Path(settings.data_dir) / _FILE).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
    return base_url(settings.host, settings.port)
