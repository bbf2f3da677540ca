"""Secrets that the first start makes."""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from api.config.secret_files import FILES, obtain, prepare_rotation
from api.config.settings import load
from api.config.sources import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

BYTES = bytes(range(32))
KEY = base64.b64encode(BYTES).decode()
WORDS = ["the-new-secret-of-tests", "the-old-secret-of-tests"]
TOKEN = "the-token-of-tests"
GIVEN = {"webhook_secrets": ",".join(WORDS), "master_key": KEY, "api_token": TOKEN}


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
    found = obtain(load({}, **settings, webhook_secrets=GIVEN["webhook_secrets"])[0])
    assert found.webhook_secrets == WORDS
    assert (found.master_key, found.api_token, found.made) == (made.master_key, made.api_token, [])
    assert obtain(load({}, **settings)[0]).webhook_secrets == made.webhook_secrets


def test_nothing_is_written_when_all_are_set(tmp_path: Path) -> None:
    """With every secret set, the data directory is not touched."""
    found = obtain(load({}, data_dir=str(tmp_path / "none"), **GIVEN)[0])
    assert (found.webhook_secrets, found.master_key) == (WORDS, BYTES)
    assert (found.api_token, found.made) == (TOKEN, [])
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
    key = tmp_path / "master-key"
    key.write_text(KEY)
    key.chmod(0o600)
    assert obtain(settings).master_key == BYTES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\n", b"\xff"], ids=["empty", "blank", "no-text"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """An emptied secret is no secret: an empty token would let everybody in."""
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    (tmp_path / FILES[name]).write_bytes(content)
    with pytest.raises(SettingsError, match=FILES[name]):
        obtain(settings)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602])
def test_a_file_that_is_open_to_others(tmp_path: Path, name: str, mode: int) -> None:
    """Who else can read or write a secret that was made here: the line says how to close it."""
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    path = tmp_path / FILES[name]
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"; chmod 600 {path}$"):
        obtain(settings)
    path.chmod(0o400)
    assert obtain(settings).made == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("there", [True, False])
def test_no_link_is_followed(tmp_path: Path, name: str, there: bool) -> None:
    """A secret is neither read through a link nor made where one leads."""
    other, folder = tmp_path / "other", tmp_path / "data"
    folder.mkdir()
    if there:
        other.write_text(KEY)
        other.chmod(0o600)
    path = folder / FILES[name]
    path.symlink_to(other)
    with pytest.raises(SettingsError, match=f"^{path} is a symbolic link"):
        obtain(load({}, data_dir=str(folder))[0])
    assert other.exists() is there


def test_no_link_is_followed_while_rotating(tmp_path: Path) -> None:
    """Neither from the key nor from the former one."""
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    key, previous = tmp_path / "master-key", tmp_path / "master-key.previous"
    previous.symlink_to(tmp_path / "other")
    with pytest.raises(SettingsError, match=f"^{previous} is a symbolic link"):
        prepare_rotation(settings)
    previous.unlink()
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match=f"^{key} is a symbolic link"):
        prepare_rotation(settings)
    assert not previous.exists()


def test_a_preparation_that_was_killed(tmp_path: Path) -> None:
    """Killed when the old key was kept already, it goes on: in the end there are two keys."""
    settings = load({}, data_dir=str(tmp_path))[0]
    old = obtain(settings).master_key
    (tmp_path / "master-key.previous").hardlink_to(tmp_path / "master-key")
    (tmp_path / "master-key.next").write_text("half")
    prepare_rotation(settings)
    found = obtain(settings)
    assert found.previous_master_key == old
    assert found.master_key != old
    prepare_rotation(settings)
    assert obtain(settings).master_key == found.master_key


def test_keys_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is there after a power cut before the next: the names too, not the files alone."""
    seen: list[set[str]] = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        sync(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append({name for name in os.listdir(descriptor) if name.startswith("master-key")})

    monkeypatch.setattr(os, "fsync", noting)
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    assert seen[-1] == {"master-key"}
    prepare_rotation(settings)
    both = {"master-key", "master-key.previous"}
    assert [names for names in seen if "master-key.previous" in names] == [
        both | {"master-key.next"},
        both,
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_can_be_guessed(tmp_path: Path, name: str) -> None:
    """What was typed into a file is held to the same as what is set."""
    settings = load({}, data_dir=str(tmp_path))[0]
    obtain(settings)
    path = tmp_path / FILES[name]
    path.write_text(base64.b64encode(bytes(32)).decode() if name == "master_key" else "x")
    with pytest.raises(SettingsError, match=f"^{path}.*; make one with: "):
        obtain(settings)


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    """A data directory that can't be one is an error of settings, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"can't be read or made .*; see USERLOG_DATA_DIR"):
        obtain(load({}, data_dir=str(tmp_path / "file"))[0])
