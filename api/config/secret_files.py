"""Secrets that the first start makes for itself, in files that only the owner can read."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from api.config.settings import PREFIX, Settings, key_bytes, secrets_of
from api.config.sources import SettingsError
from eventstore.sealing.keys import MasterKey

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

FILES = {
    "webhook_secrets": "webhook-secret",
    "master_key": "master-key",
    "api_token": "api-token",
}


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


def obtain(settings: Settings) -> Secrets:
    """Take the secrets from the settings, else from the data directory, else make them there.

    SettingsError where a generated secret would be wrong: beyond loopback, on a server database,
    or instead of a lost master key.
    """
    missing = [name for name in FILES if getattr(settings, name) is UNSET]
    texts = {name: getattr(settings, name) for name in FILES if name not in missing}
    made: list[str] = []
    if settings.database_url is None and settings.on_loopback:
        texts.update({name: _generated(settings, name, made) for name in missing})
    else:
        _refuse_generated(settings, [name for name in missing if name != "api_token"])
    return Secrets(
        secrets_of(texts["webhook_secrets"]),
        key_bytes(texts["master_key"]),
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
    return Secrets([], key_bytes(text), _previous(settings), None, [])


def previous_file(settings: Settings) -> Path:
    """Where a generated master key is kept while it is being rotated."""
    return Path(settings.data_dir) / f"{FILES['master_key']}.previous"


def _previous(settings: Settings) -> bytes | None:
    if settings.previous_master_key is not None:
        return key_bytes(settings.previous_master_key)
    path = previous_file(settings)
    with _explained(path):
        if settings.master_key is UNSET and path.exists():
            return key_bytes(path.read_text(encoding="utf-8").strip(), str(path))
    return None


def prepare_rotation(settings: Settings) -> None:
    """Put a new generated master key in the old one's place, and the old one beside it.

    SettingsError if the key is not a generated one. A rotation that was prepared already stays
    as it is.
    """
    if settings.master_key is not UNSET:
        raise SettingsError(
            f"{PREFIX}MASTER_KEY is set: set {PREFIX}PREVIOUS_MASTER_KEY to it, and it to a new key"
        )
    path, previous = Path(settings.data_dir) / FILES["master_key"], previous_file(settings)
    if previous.exists():
        return
    draft = path.with_suffix(".next")
    with _explained(path):
        draft.unlink(missing_ok=True)
        _write_once(draft, _master_key())
        os.link(path, previous)
        draft.replace(path)


def _refuse_generated(settings: Settings, missing: list[str]) -> None:
    if missing:
        names = ", ".join(PREFIX + name.upper() for name in missing)
        if settings.database_url is not None:
            raise SettingsError(f"with {PREFIX}DATABASE_URL these must be set as well: {names}")
        raise SettingsError(f"to listen on {settings.host} these must be set: {names}")


def _generated(settings: Settings, name: str, made: list[str]) -> str:
    path = Path(settings.data_dir) / FILES[name]
    with _explained(path):
        text = _file(path, name, made)
    if not text:
        raise SettingsError(
            f"{path} is empty; restore what was in it, or remove it to have a new one made"
        )
    return text


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn what makes a file of a secret unreadable into one line."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        problem = f"can't be read or made ({type(error).__name__})"
        raise SettingsError(f"{path} {problem}; see {PREFIX}DATA_DIR") from None


def _file(path: Path, name: str, made: list[str]) -> str:
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    if name == "master_key" and (path.parent / "postgres").exists():
        raise SettingsError(
            f"{path} is gone, and without it nothing in this database can be read;"
            f" restore it, or set {PREFIX}MASTER_KEY"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _write_once(path, _MAKERS[name]()):
        made.append(name)
    return path.read_text(encoding="utf-8").strip()


def _write_once(path: Path, text: str) -> bool:
    """Make a file, whole and durable, unless another start has made it meanwhile."""
    handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)  # noqa: PTH108 - as returned by mkstemp
    return True


def _master_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


_MAKERS: dict[str, Callable[[], str]] = {
    "webhook_secrets": secrets.token_hex,
    "master_key": _master_key,
    "api_token": secrets.token_urlsafe,
}
