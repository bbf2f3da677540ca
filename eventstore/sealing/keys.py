"""Sealed payloads: compressed, then encrypted with the user's own key.

A sealed payload is one version byte, a 12-byte nonce, and the AES-256-GCM ciphertext with its
tag over a zstd frame made with the dictionary of that version. It is bound to its stream and
identity, so it opens nowhere else. Destroying the 32-byte key makes all of a user's payloads,
identities and digests meaningless.
"""

from __future__ import annotations

import contextlib
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
from eventstore.sealing.columns import ColumnKey

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

KEY_BYTES = 32
FINGERPRINT_BYTES = 8
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
NO_PAYLOAD = b""
_NONCE_BYTES = 12
_CHECK_BYTES = 6
_KEY_ID_BITS = 63


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

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._kept)

    def clear(self) -> None:
        """Drop all of them."""
        self._kept.clear()


def new_key_id() -> int:
    """Return a number that no other user's key has, nor an earlier one of this user."""
    return secrets.randbits(_KEY_ID_BITS)


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

    def for_columns(self) -> ColumnKey:
        """Return this user's key for sealed columns, which is derived from it."""
        return ColumnKey(_derive(self._naming, b"columns"))


class _Held:
    """One master key, and what is derived from it."""

    __slots__ = ("check", "cipher", "fingerprint", "tombstone")

    def __init__(self, secret: bytes) -> None:
        self.fingerprint = hashlib.blake2b(
            key=secret, person=b"fingerprint", digest_size=FINGERPRINT_BYTES
        ).digest()
        self.cipher = AESGCM(_derive(secret, b"wrap"))
        self.tombstone = _derive(secret, b"tombstone")
        self.check = _derive(secret, b"check")


class MasterKey:
    """The key that wraps the users' keys; it lives outside the database.

    While it is being rotated, a previous one is held as well, and either opens. The one that wraps
    is the one that the log says it is written with, see `current_key`; until that is known, the new
    one.
    """

    __slots__ = ("_held", "_using")

    def __init__(self, secret: bytes, previous: bytes | None = None) -> None:
        """Take the 32 secret bytes; ValueError for any other number."""
        self._held = _held(secret, previous)
        self._using = self._held[0]

    def renew(self, secret: bytes, previous: bytes | None) -> None:
        """Hold other keys from now on; the one that wraps goes on if it is among them."""
        self._held = _held(secret, previous)
        if not self.use(self._using.fingerprint):
            self._using = self._held[0]

    @property
    def new(self) -> bytes:
        """The fingerprint of the key that a rotation leads to."""
        return self._held[0].fingerprint

    @property
    def current(self) -> bytes:
        """The fingerprint of the key that wraps."""
        return self._using.fingerprint

    @property
    def fingerprints(self) -> list[bytes]:
        """The fingerprints of the keys that are held, the new one first."""
        return [one.fingerprint for one in self._held]

    def use(self, fingerprint: bytes) -> bool:
        """Wrap with another of the keys that are held; False if it is not among them."""
        for one in self._held:
            if one.fingerprint == fingerprint:
                self._using = one
                return True
        return False

    def new_data_key(self, context: bytes) -> tuple[bytes, DataKey]:
        """Make a user's key; return it wrapped, for the database, and ready for use."""
        secret = secrets.token_bytes(KEY_BYTES)
        return self.wrap_secret(secret, context), DataKey.of(secret)

    def unwrap(self, wrapped: bytes, context: bytes) -> DataKey:
        """Open a wrapped key; SealBrokenError if no master key that is held has wrapped it."""
        return DataKey.of(self.unwrap_secret(wrapped, context))

    def wrap_secret(self, secret: bytes, context: bytes) -> bytes:
        """Wrap a key of the log's own."""
        return _seal(self._using.cipher, secret, context, _WRAPPED)

    def unwrap_secret(self, wrapped: bytes, context: bytes) -> bytes:
        """Open one; SealBrokenError if no master key that is held has wrapped it."""
        return self._open(wrapped, context)[0]

    @property
    def has_previous(self) -> bool:
        """Whether it is being rotated."""
        return len(self._held) > 1

    def rewrap(self, wrapped: bytes, context: bytes) -> bytes | None:
        """Wrap a key of the previous master key with the new one; None if it is already."""
        secret, by = self._open(wrapped, context)
        new = self._held[0]
        return _seal(new.cipher, secret, context, _WRAPPED) if by is not new else None

    def _open(self, wrapped: bytes, context: bytes) -> tuple[bytes, _Held]:
        *others, last = self._held
        for one in others:
            with contextlib.suppress(SealBrokenError):
                return _open(one.cipher, wrapped, context, (_WRAPPED,)), one
        return _open(last.cipher, wrapped, context, (_WRAPPED,)), last

    def check_of(self, text: bytes) -> bytes:
        """Return 6 bytes that only the holder of this key can make for a text."""
        return _check(self._using.check, text)

    def checks(self, text: bytes, check: bytes) -> bool:
        """Say whether these are the bytes for a text, of any key that is held."""
        return any([hmac.compare_digest(_check(one.check, text), check) for one in self._held])  # noqa: C419 - each is tried

    def tombstone_key(self, context: bytes) -> DataKey:
        """Return the key that names an erased user's later events; it seals nothing."""
        return DataKey.of(
            hashlib.blake2b(context, key=self._using.tombstone, digest_size=KEY_BYTES).digest()
        )


def _held(secret: bytes, previous: bytes | None) -> list[_Held]:
    given = [secret] if previous is None or previous == secret else [secret, previous]
    for one in given:
        if len(one) != KEY_BYTES:
            msg = f"a master key has {KEY_BYTES} bytes, this one has {len(one)}"
            raise ValueError(msg)
    return [_Held(one) for one in given]
