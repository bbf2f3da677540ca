"""Secrets that the first start makes for itself, in files that only the owner can read."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from api.config.secret_values import check_word, check_words, key_bytes, secrets_of
from api.config.sources import PREFIX, SettingsError
from eventstore.postgres.files import (
    FileRefusedError,
    no_link,
    refuse_foreign,
    refuse_link,
    sync_folder,
)
from eventstore.sealing.keys import MasterKey

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from api.config.settings import Settings

FILES = {
    "webhook_secrets": "webhook-secret",
    "master_key": "master-key",
    "api_token": "api-token",
}
_OPEN_TO_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class Secrets(msgspec.Struct, dict=True):
    """The secrets in force; `made` names those that this start has generated.

    Without an `api_token`, only the tokens in the database open anything.
    """

    webhook_secrets: list[str]
    master_key: bytes
    previous_master_key: bytes | None
    api_token: str | None
    made: list[str]

    @cached_property
    def master(self) -> MasterKey:
        """The master keys, ready for use."""
        return MasterKey(self.master_key, self.previous_master_key)

    def renew(self, other: Secrets) -> None:
        """Take over others while the service runs; who uses `master` notices."""
        self.webhook_secrets = other.webhook_secrets
        self.api_token = other.api_token
        self.master_key, self.previous_master_key = other.master_key, other.previous_master_key
        self.master.renew(self.master_key, self.previous_master_key)

    def __repr__(self) -> str:
        """Show no secret."""
        return "Secrets(…)"


def obtain(settings: Settings, *, create: bool = True) -> Secrets:
    """Take the secrets from the settings, else from the data directory, else make them there.

    Without `create` nothing is made, and there may be no webhook secret and no token.
    SettingsError where a generated secret would be wrong: beyond loopback, on a server database,
    or instead of a lost master key; and where the data directory is not to be used.
    """
    if settings.database_url is None:
        _refuse_foreign(settings)
    missing = [name for name in FILES if getattr(settings, name) is UNSET]
    texts = {name: getattr(settings, name) for name in FILES if name not in missing}
    made: list[str] = []
    if settings.database_url is None and settings.on_loopback:
        folder = Path(settings.data_dir)
        for name in missing:  # a master key that is lost is refused, see `_make`
            if create or name == "master_key" or os.path.lexists(folder / FILES[name]):
                texts[name] = _generated(settings, name, made)
    else:
        _refuse_generated(settings, [name for name in missing if name != "api_token"])
    return Secrets(
        secrets_of(texts.get("webhook_secrets", "")),
        key_bytes(texts["master_key"], f"{PREFIX}MASTER_KEY"),
        _previous(settings),
        texts.get("api_token"),
        made,
    )


def master_keys(settings: Settings) -> Secrets:
    """Take the master keys and no other secret; nothing is made. SettingsError if there is none."""
    text = settings.master_key
    if text is UNSET:
        path = Path(settings.data_dir) / FILES["master_key"]
        if not path.exists():
            raise SettingsError(
                f"there is no master key in {path.resolve()}; put it there, or set"
                f" {PREFIX}MASTER_KEY"
            )
        text = _generated(settings, "master_key", [])
    key = key_bytes(text, f"{PREFIX}MASTER_KEY")
    return Secrets([], key, _previous(settings), None, [])


def forget_previous(settings: Settings) -> None:
    """Remove the generated key that has been rotated away; not one that was not in use."""
    if settings.master_key is UNSET and settings.previous_master_key is None:
        _previous_file(settings).unlink(missing_ok=True)


def _previous_file(settings: Settings) -> Path:
    """Where a generated master key is kept while it is being rotated."""
    return Path(settings.data_dir) / f"{FILES['master_key']}.previous"


def _previous(settings: Settings) -> bytes | None:
    if settings.previous_master_key is not None:
        return key_bytes(settings.previous_master_key, f"{PREFIX}PREVIOUS_MASTER_KEY", weak=True)
    path = _previous_file(settings)
    text = _read(path) if settings.master_key is UNSET else None
    return None if text is None else key_bytes(text, str(path), weak=True)


def prepare_rotation(settings: Settings) -> None:
    """Put a new generated master key in the old one's place, and the old one beside it.

    SettingsError if the key is not a generated one. A rotation that was prepared already stays
    as it is.
    """
    if settings.master_key is not UNSET:
        raise SettingsError(
            f"{PREFIX}MASTER_KEY is set: set {PREFIX}PREVIOUS_MASTER_KEY to it, and it to a new key"
        )
    path, previous = Path(settings.data_dir) / FILES["master_key"], _previous_file(settings)
    _refuse_foreign(settings)
    kept = _read(previous)
    if kept is not None and kept != _read(path):  # else it was killed between the two
        return
    draft = path.with_suffix(".next")
    with _explained(path):
        refuse_link(path)
        draft.unlink(missing_ok=True)
        _write_once(draft, _master_key())
        if kept is None:
            os.link(path, previous)
            sync_folder(path.parent)
        draft.replace(path)
        sync_folder(path.parent)


def _refuse_foreign(settings: Settings) -> None:
    folder = Path(settings.data_dir)
    with _explained(folder):
        refuse_foreign(folder)


def _refuse_generated(settings: Settings, missing: list[str]) -> None:
    if missing:
        names = ", ".join(PREFIX + name.upper() for name in missing)
        if settings.database_url is not None:
            raise SettingsError(f"with {PREFIX}DATABASE_URL these must be set as well: {names}")
        raise SettingsError(f"to listen on {settings.host} these must be set: {names}")


def _generated(settings: Settings, name: str, made: list[str]) -> str:
    path = Path(settings.data_dir) / FILES[name]
    text = _read(path)
    if text is None:
        with _explained(path):
            _make(path, name, made)
        text = _read(path)
    if not text:
        raise SettingsError(
            f"{path} is empty; restore what was in it, or remove it to have a new one made"
        )
    _CHECKS[name](text, str(path))
    return text


def _read(path: Path) -> str | None:
    """Return what is in a file of a secret; None if there is none."""
    with (
        _explained(path),
        contextlib.suppress(FileNotFoundError),
        open(path, encoding="utf-8", opener=no_link) as file,
    ):
        if os.fstat(file.fileno()).st_mode & _OPEN_TO_OTHERS:
            raise SettingsError(f"{path} is open to other accounts; chmod 600 {path}")
        return file.read().strip()
    return None


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn what makes a file of a secret unreadable into one line about a setting."""
    try:
        yield
    except FileRefusedError as error:
        raise SettingsError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        problem = f"can't be read or made ({why or type(error).__name__})"
        raise SettingsError(f"{path} {problem}; see {PREFIX}DATA_DIR") from None


def _make(path: Path, name: str, made: list[str]) -> None:
    if name == "master_key" and (path.parent / "postgres").exists():
        raise SettingsError(
            f"{path} is gone, and without it nothing in this database can be read;"
            f" restore it, or set {PREFIX}MASTER_KEY"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _write_once(path, _MAKERS[name]()):
        made.append(name)


def _write_once(path: Path, text: str) -> bool:
    """Make a file, whole and durable, unless another start has made it meanwhile."""
    handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)  # noqa: PTH108 - as returned by mkstemp
    return True


def _master_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


_CHECKS: dict[str, Callable[[str, str], object]] = {
    "webhook_secrets": check_words,
    "master_key": key_bytes,
    "api_token": check_word,
}
_MAKERS: dict[str, Callable[[], str]] = {
    "webhook_secrets": secrets.token_hex,
    "master_key": _master_key,
    "api_token": secrets.token_urlsafe,
}
