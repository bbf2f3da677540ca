"""The address at which a service answers, left in its data directory for commands."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from eventstore.postgres.files import FileRefusedError, no_link, refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Generator

    from api.config.settings import Settings

_FILE = "address"
_log = structlog.stdlib.get_logger("userlog")


def base_url(host: str, port: int) -> str:
    """Return the beginning of all URLs of a service."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def left(settings: Settings, base: str) -> Generator[None]:
    """Leave the address for as long as the block lasts, if there is a data directory.

    It counts while its file is locked: one that was killed leaves nothing that counts. Of two
    services the first one's stays.
    """
    folder = Path(settings.data_dir)
    with contextlib.ExitStack() as stack:
        try:
            refuse_foreign(folder)
            file = stack.enter_context(open(folder / _FILE, "a", opener=no_link))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"{base}\n")
            file.flush()
        except FileRefusedError as error:
            _log.warning("commands can't find this service's address", problem=str(error))
        except OSError:
            pass
        yield


def address_of(settings: Settings) -> str:
    """Return where the service of a data directory answers; the settings' address if none does.

    FileRefusedError if a link is in the file's place, or root is asked to look at another's.
    """
    folder = Path(settings.data_dir)
    refuse_foreign(folder)
    with contextlib.suppress(OSError), open(folder / _FILE, opener=no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
    return base_url(settings.host, settings.port)
