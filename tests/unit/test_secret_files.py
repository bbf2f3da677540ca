"""Secrets that the first start makes."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING, Any

import pytest

from api.config.secret_files import FILES, obtain
from api.config.settings import load
from api.config.sources import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

KEY = base64.b64encode(bytes(32)).decode()
GIVEN = {"webhook_secrets": "new,old", "master_key": KEY, "api_token": "token"}


def test_the_first_start_makes_all(tmp_path: Path) -> None:
    """Missing secrets are made in files of the owner alone, in a folder of the owner alone."""
    folder = tmp_path / "made" / "data"
    found = obtain(load({}, data_dir=str(folder))[0])
    assert sorted(found.made) == sorted(FILES)
    assert {file.name for file in folder.iterdir()} == set(FILES.values())
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(found.master_key) == 32
    assert found.api_token
    assert min(len(found.api_token), *map(len, found.webhook_secrets)) >= 32


def test_later_starts_use_them(tmp_path: Path) -> None:
    """What was made once is used again, and nobody else's are the same."""
    settings = load({}, data_dir=str(tmp_path / "one"))[0]
    first, again = obtain(settings), obtain(settings)
    other = obtain(load({}, data_dir=str(tmp_path / "other"))[0])
    assert again.made == []
    assert (again.webhook_secrets, again.master_key, again.api_token) == (
        first.webhook_secrets,
        first.master_key,
        first.api_token,
    )
    assert other.master_key != first.master_key
    assert other.api_token != first.api_token
    assert other.webhook_secrets != first.webhook_secrets


def test_secrets_that_are_set_are_not_made(tmp_path: Path) -> None:
    """A secret from the settings overrules its file and leaves it alone."""
    settings: dict[str, Any] = {"data_dir": str(tmp_path)}
    made = obtain(load({}, **settings)[0])
    found = obtain(load({}, **settings, webhook_secrets="new,old")[0])
    assert found.webhook_secrets == ["new", "old"]
    assert (found.master_key, found.api_token, found.made) == (made.master_key, made.api_token, [])
    assert obtain(load({}, **settings)[0]).webhook_secrets == made.webhook_secrets


def test_nothing_is_written_when_all_are_set(tmp_path: Path) -> None:
    """With every secret set, the data directory is not touched."""
    found = obtain(load({}, data_dir=str(tmp_path / "none"), **GIVEN)[0])
    assert (found.webhook_secrets, found.master_key) == (["new", "old"], bytes(32))
    assert (found.api_token, found.made) == ("token", [])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("missing", ["webhook_secrets", "master_key"])
@pytest.mark.parametrize(
    "where", [{"host": "192.0.2.1"}, {"database_url": "postgresql://h/d"}], ids=["host", "database"]
)
def test_generated_secrets_stay_on_this_machine(
    tmp_path: Path, missing: str, where: dict[str, str]
) -> None:
    """Beyond loopback, or with a server database, a missing secret is named and not made."""
    given: dict[str, Any] = {name: value for name, value in GIVEN.items() if name != missing}
    with pytest.raises(SettingsError, match=f": USERLOG_{missing.upper()}$"):
        obtain(load({}, data_dir=str(tmp_path), **where, **given)[0])
    assert list(tmp_path.iterdir()) == []
    everything: dict[str, Any] = {**where, **GIVEN}
    assert obtain(load({}, **everything)[0]).made == []
    del everything["api_token"]
    found = obtain(load({}, data_dir=str(tmp_path), **everything)[0])
    assert (found.api_token, found.made, list(tmp_path.iterdir())) == (None, [], [])


def test_a_lost_master_key_is_not_replaced(tmp_path: Path) -> None:
    """Where there is a database already, no new master key is made: it could read nothing."""
    (tmp_path / "postgres").mkdir()
    settings = load({}, data_dir=str(tmp_path))[0]
    with pytest.raises(SettingsError, match=r"master-key is gone.*USERLOG_MASTER_KEY"):
        obtain(settings)
    assert not (tmp_path / "master-key").exists()
    (tmp_path / "master-key").write_text(KEY)
    assert obtain(settings).master_key == bytes(32)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\n", b"\xff"], ids=["empty", "blank", "no-text"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """An emptied secret is no secret: an empty token would let everybody in."""
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    (tmp_path / FILES[name]).write_bytes(content)
    with pytest.raises(SettingsError, match=FILES[name]):
        obtain(settings)


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    """A data directory that can't be one is an error of settings, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"can't be read or made .*; see USERLOG_DATA_DIR"):
        obtain(load({}, data_dir=str(tmp_path / "file"))[0])
