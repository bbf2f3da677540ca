"""Sealed columns: rows beside the log that can't be read without their user's key.

A sealed column is one version byte and the AES-256-GCM-SIV ciphertext with its tag over a zstd
frame made with the dictionary of that version. The nonce is constant, so the same row is the same
bytes, and sums over rows can be compared. It is bound to its row, so it opens nowhere else, and no
two rows with equal contents have equal bytes (RFC 8452: with a constant nonce, equal ciphertexts
tell of equal contents in the same place, and of nothing else).
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from eventstore.errors import SealBrokenError

if TYPE_CHECKING:
    import uuid

_VERSION = 1
_LEADING = bytes((_VERSION,))
_NONCE = bytes(12)
_DICTIONARY = zstandard.ZstdCompressionDict(
    resources.files("eventstore.sealing").joinpath(f"columns-{_VERSION}.json").read_bytes(),
    dict_type=zstandard.DICT_TYPE_RAWCONTENT,
)


def compressor(level: int, **more: int) -> zstandard.ZstdCompressor:
    """Make what compresses columns, without the four bytes that every frame begins with."""
    parameters = zstandard.ZstdCompressionParameters.from_level(  # pyright: ignore[reportUnknownMemberType] - the stub has no type for **kwargs
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_checksum=False,
        write_dict_id=False,
        **more,
    )
    return zstandard.ZstdCompressor(dict_data=_DICTIONARY, compression_params=parameters)


# Rows are short, so a longer search is free: as small as with level 6, in three quarters of its
# time.
COMPRESSOR = compressor(5, search_log=5, min_match=6)
_DECOMPRESSOR = zstandard.ZstdDecompressor(
    dict_data=_DICTIONARY, format=zstandard.FORMAT_ZSTD1_MAGICLESS
)


class ColumnKey:
    """One user's key for columns. Made when it is needed and not kept."""

    __slots__ = ("_cipher",)

    def __init__(self, secret: bytes) -> None:
        """Take the 32 secret bytes."""
        self._cipher = AESGCMSIV(secret)

    def seal(self, plaintext: bytes, place: bytes) -> bytes:
        """Compress and encrypt; `place` must be given again to open."""
        return _LEADING + self._cipher.encrypt(
            _NONCE, COMPRESSOR.compress(plaintext), _LEADING + place
        )

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Return what was sealed; SealBrokenError if anything about it changed."""
        opened = self.open_or_none(sealed, place)
        if opened is None:
            msg = "a row does not open: altered, moved, or sealed with another key"
            raise SealBrokenError(msg)
        return opened

    def open_or_none(self, sealed: bytes, place: bytes) -> bytes | None:
        """Return what was sealed; None if anything about it changed."""
        if sealed[:1] != _LEADING:
            return None
        try:
            frame = self._cipher.decrypt(_NONCE, sealed[1:], _LEADING + place)
        except (InvalidTag, ValueError):
            return None
        return _DECOMPRESSOR.decompress(frame)


def place_of(table: str, stream_id: uuid.UUID, order_key: bytes, position: int) -> bytes:
    """Return what a column is bound to: the table, and the row in it."""
    return b"%b\0%b%b%b" % (table.encode(), stream_id.bytes, order_key, position.to_bytes(8))
