"""The address that a service leaves for commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from api.config.address import address_of, base_url, left
from api.config.settings import Settings
from eventstore.postgres.files import FileRefusedError

if TYPE_CHECKING:
    from pathlib import Path


def test_while_it_serves(tmp_path: Path) -> None:
    """It counts as long as the service runs; of two the first one's; afterwards the settings'."""
    settings = Settings(data_dir=str(tmp_path), port=1)
    assert address_of(settings) == "http://127.0.0.1:1"
    with left(settings, base_url("::1", 2)):
        with left(settings, base_url("127.0.0.1", 3)):
            assert address_of(settings) == "http://[::1]:2"
        assert address_of(settings) == "http://[::1]:2"
    assert (tmp_path / "address").read_text() == "http://[::1]:2\n"
    assert address_of(settings) == "http://127.0.0.1:1"
    with left(settings, base_url("127.0.0.1", 4)):
        assert address_of(settings) == "http://127.0.0.1:4"


def test_no_link_is_followed(tmp_path: Path) -> None:
    """What a link in the data directory leads to stays as it is, and is not read."""
    other = tmp_path / "other"
    other.write_text("kept")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "address").symlink_to(other)
    settings = Settings(data_dir=str(folder))
    with capture_logs() as lines, left(settings, base_url("127.0.0.1", 3)):
        assert other.read_text() == "kept"
    (line,) = lines
    assert line["problem"].startswith(f"{folder / 'address'} is a symbolic link")
    with pytest.raises(FileRefusedError, match="symbolic link"):
        address_of(settings)


def test_without_a_data_directory(tmp_path: Path) -> None:
    """A service on a server's database may have none: nothing is made."""
    settings = Settings(data_dir=str(tmp_path / "none"))
    with left(settings, base_url("127.0.0.1", 3)):
        assert address_of(settings) == "http://127.0.0.1:8080"
    assert not (tmp_path / "none").exists()
