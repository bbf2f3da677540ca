"""Sealed payloads: compressed, then encrypted with the user's own key.

A sealed payload is one version byte, a 12-byte nonce, and the AES-256-GCM ciphertext with its
tag over a zstd frame made with the dictionary of that version. It is bound to its stream and
identity, so it opens nowhere else. Destroying the 32-byte key makes all of a user's payloads,
identities and digests meaningless.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from importlib import resources
from typing import TYPE_CHECKING, Self

import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventstore.errors import SealBrokenError

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

KEY_BYTES = 32
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
NO_PAYLOAD = b""
_NONCE_BYTES = 12
_CHECK_BYTES = 6


def _dictionary(version: int) -> zstandard.ZstdCompressionDict:
    found = (
        resources.files("eventstore.sealing").joinpath(f"dictionary-{version}.json").read_bytes()
    )
    return zstandard.ZstdCompressionDict(found, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


# The version byte of a user's key, which is not compressed.
_WRAPPED = 1
# That of payloads as they are sealed now.
_PAYLOAD = 2
# The first knows deliveries without white space, the second those with line breaks as well.
_DICTIONARIES = {version: _dictionary(version) for version in (1, _PAYLOAD)}
_COMPRESSOR = zstandard.ZstdCompressor(
    level=3, dict_data=_DICTIONARIES[_PAYLOAD], write_checksum=False
)
_DECOMPRESSORS = {
    version: zstandard.ZstdDecompressor(dict_data=one) for version, one in _DICTIONARIES.items()
}


class Ciphers:
    """The ciphers of the keys that were used last.

    Making one takes three microseconds, keeping one 2.4 kB: of the keys many are kept, of the
    ciphers few.
    """

    def __init__(self, kept_max: int = 4_096) -> None:
        self._kept: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._kept_max = kept_max

    def of(self, secret: bytes) -> AESGCM:
        """Return the cipher of a key."""
        cipher = self._kept.get(secret)
        if cipher is not None:
            self._kept.move_to_end(secret)
            return cipher
        cipher = self._kept[secret] = AESGCM(secret)
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)
        return cipher

    def drop(self, secret: bytes) -> None:
        """Forget a key."""
        self._kept.pop(secret, None)


def context_of(stream_id: uuid.UUID, identity: bytes) -> bytes:
    """Return what a payload is bound to: it opens nowhere else."""
    return stream_id.bytes + identity


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=secret, person=purpose, digest_size=KEY_BYTES).digest()


def _check(key: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=_CHECK_BYTES).digest()


def _open(cipher: AESGCM, sealed: bytes, context: bytes, versions: Collection[int]) -> bytes:
    if not sealed or sealed[0] not in versions:
        msg = "not sealed by this version of userlog, or altered"
        raise SealBrokenError(msg)
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return cipher.decrypt(nonce, ciphertext, _bound(context, sealed[0]))
    except (InvalidTag, ValueError) as error:
        msg = "does not open: altered, moved, or sealed with another key"
        raise SealBrokenError(msg) from error


def _bound(context: bytes, version: int) -> bytes:
    """Return what is proved besides: the place, and from version 2 on the version."""
    return context if version == 1 else bytes((version,)) + context


def _seal(cipher: AESGCM, plaintext: bytes, context: bytes, version: int) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return bytes((version,)) + nonce + cipher.encrypt(nonce, plaintext, _bound(context, version))


class DataKey(msgspec.Struct, frozen=True, gc=False):
    """One user's key: seals payloads, and names events so that only its holder can guess them.

    There are many, and they refer to nothing: the garbage collector does not look at them.
    """

    _sealing: bytes
    _naming: bytes

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Take the 32 secret bytes; they are not kept, only what is derived from them."""
        return cls(_derive(secret, b"seal"), _derive(secret, b"naming"))

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """Take what `packed` gave."""
        return cls(packed[:KEY_BYTES], packed[KEY_BYTES:])

    def packed(self) -> bytes:
        """Return what is kept of it as 64 bytes."""
        return self._sealing + self._naming

    def __repr__(self) -> str:
        """Show no secret."""
        return "DataKey(…)"

    def identity(self, source: bytes) -> bytes:
        """Return the 16-byte keyed identity of an event."""
        return hashlib.blake2b(
            source, key=self._naming, person=b"identity", digest_size=16
        ).digest()

    def digest(self, content: bytes) -> bytes:
        """Return the 8-byte keyed digest of an event's content."""
        return hashlib.blake2b(content, key=self._naming, person=b"digest", digest_size=8).digest()

    def seal(self, payload: bytes, context: bytes, ciphers: Ciphers | None = None) -> bytes:
        """Compress and encrypt; `context` must be given again to open."""
        cipher = ciphers.of(self._sealing) if ciphers else AESGCM(self._sealing)
        return _seal(cipher, _COMPRESSOR.compress(payload), context, _PAYLOAD)

    def open(self, sealed: bytes, context: bytes, ciphers: Ciphers | None = None) -> bytes:
        """Return the payload; SealBrokenError if anything about it changed."""
        cipher = ciphers.of(self._sealing) if ciphers else AESGCM(self._sealing)
        frame = _open(cipher, sealed, context, _DECOMPRESSORS)
        return _DECOMPRESSORS[sealed[0]].decompress(frame, max_output_size=PAYLOAD_BYTES_MAX)

    def drop_from(self, ciphers: Ciphers) -> None:
        """Remove this key from those whose ciphers are kept."""
        ciphers.drop(self._sealing)


class MasterKey:
    """The key that wraps the users' keys; it lives outside the database.

    While it is being rotated, a previous one still opens what the new one does not.
    """

    __slots__ = ("_checks", "_cipher", "_previous", "_tombstones")

    def __init__(self, secret: bytes, previous: bytes | None = None) -> None:
        """Take the 32 secret bytes; ValueError for any other number."""
        for given in (secret, previous):
            if given is not None and len(given) != KEY_BYTES:
                msg = f"a master key has {KEY_BYTES} bytes, this one has {len(given)}"
                raise ValueError(msg)
        self._cipher = AESGCM(_derive(secret, b"wrap"))
        self._previous = AESGCM(_derive(previous, b"wrap")) if previous else None
        self._tombstones = _derive(secret, b"tombstone")
        self._checks = [_derive(one, b"check") for one in (secret, previous) if one]

    def new_data_key(self, context: bytes) -> tuple[bytes, DataKey]:
        """Make a user's key; return it wrapped, for the database, and ready for use."""
        secret = secrets.token_bytes(KEY_BYTES)
        return _seal(self._cipher, secret, context, _WRAPPED), DataKey.of(secret)

    def unwrap(self, wrapped: bytes, context: bytes) -> DataKey:
        """Open a wrapped key; SealBrokenError if this is not the master key that wrapped it."""
        return DataKey.of(self._open(wrapped, context)[0])

    @property
    def has_previous(self) -> bool:
        """Whether it is being rotated."""
        return self._previous is not None

    def rewrap(self, wrapped: bytes, context: bytes) -> bytes | None:
        """Wrap a key of the previous master key with this one; None if it is already."""
        secret, is_previous = self._open(wrapped, context)
        return _seal(self._cipher, secret, context, _WRAPPED) if is_previous else None

    def _open(self, wrapped: bytes, context: bytes) -> tuple[bytes, bool]:
        try:
            return _open(self._cipher, wrapped, context, (_WRAPPED,)), False
        except SealBrokenError:
            if self._previous is None:
                raise
            return _open(self._previous, wrapped, context, (_WRAPPED,)), True

    def check_of(self, text: bytes) -> bytes:
        """Return 6 bytes that only the holder of this key can make for a text."""
        return _check(self._checks[0], text)

    def checks(self, text: bytes, check: bytes) -> bool:
        """Say whether these are the bytes for a text, of this key or of the previous one."""
        return any([hmac.compare_digest(_check(key, text), check) for key in self._checks])  # noqa: C419 - each is tried

    def tombstone_key(self, context: bytes) -> DataKey:
        """Return the key that names an erased user's later events; it seals nothing."""
        return DataKey.of(
            hashlib.blake2b(context, key=self._tombstones, digest_size=KEY_BYTES).digest()
        )
