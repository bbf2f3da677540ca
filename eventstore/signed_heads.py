"""Signed heads: what the log was at a time, in the syntax of a signed note (c2sp.org/signed-note).

A note has lines of text, an empty line, and a signature line. The text is

    userlog/<log id>/<partition>
    <position>
    <chain: the hash over everything up to it, in base64>
    time <RFC 3339, when it was signed>
    partitions <how many the log has>
    audit <number of the audit's last row> <its chain, in base64>

The key is Ed25519, random, and one of the log's own. The syntax is a signed note's; it is no
transparency log: there are no proofs of inclusion, and no other party signs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from eventstore.errors import LogError
from eventstore.events import Position
from eventstore.postgres import statements

if TYPE_CHECKING:
    from datetime import timedelta

    import asyncpg

    from eventstore.log import EventLog

_SQL = statements.load("eventstore")
_ED25519 = b"\x01"
_HASH_BYTES = 4
_KEY_BYTES = 32
_SIGNATURE = "\u2014 "
# A line that no file has, behind the last.
_END = "\n"
_TEXT = re.compile(
    r"userlog/(?P<log_id>[0-9a-f-]{36})/(?P<partition>[0-9]{1,4})\n"
    r"(?P<number>[0-9]{1,18})\n(?P<chain>[A-Za-z0-9+/]{43}=)\n"
    r"time (?P<time>[0-9TZ:.-]{20,30})\npartitions (?P<partitions>[0-9]{1,4})\n"
    r"audit (?P<audit_number>[0-9]{1,18}) (?P<audit_chain>[A-Za-z0-9+/]{43}=)\n"
)
_NOTE = re.compile(rf"(?P<text>(?:[^\n]+\n)+)\n(?P<signatures>(?:{_SIGNATURE}[^\n]+\n)+)")
_KEY = re.compile(r"(?P<name>[^\s+]+)\+(?P<hash>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)")


class ForgedError(LogError):
    """A note that is not what the holder of the key signed, or no signed head at all."""


class SignedHead(msgspec.Struct, frozen=True):
    """What is signed of a partition: everything up to a position, and up to a row of the audit."""

    log_id: uuid.UUID
    position: Position
    chain: bytes
    signed_at: datetime
    partitions: int
    audit_number: int
    audit_chain: bytes

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the text of a note; ForgedError for anything else."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ForgedError("is no signed head of userlog")
        try:
            return cls(
                uuid.UUID(found["log_id"]),
                Position(int(found["partition"]), int(found["number"])),
                base64.b64decode(found["chain"]),
                datetime.fromisoformat(found["time"]),
                int(found["partitions"]),
                int(found["audit_number"]),
                base64.b64decode(found["audit_chain"]),
            )
        except ValueError:
            raise ForgedError("is no signed head of userlog") from None

    def text(self) -> str:
        """Return the text of its note."""
        at = self.signed_at.astimezone(UTC).isoformat(timespec="milliseconds")
        audit_chain = base64.b64encode(self.audit_chain).decode()
        return (
            f"{key_name(self.log_id)}/{self.position.partition}\n"
            f"{self.position.number}\n{base64.b64encode(self.chain).decode()}\n"
            f"time {at.replace('+00:00', 'Z')}\npartitions {self.partitions}\n"
            f"audit {self.audit_number} {audit_chain}\n"
        )


class StoredHead(msgspec.Struct, frozen=True):
    """A signed head as it is kept: its note, and when it was signed."""

    position: Position
    signed_at: datetime
    note: str


def key_name(log_id: uuid.UUID) -> str:
    """Name the key of a log in its notes."""
    return f"userlog/{log_id}"


class PublicKey:
    """What verifies a log's notes; written as a verifier key of signed notes."""

    def __init__(self, name: str, key: bytes) -> None:
        """Take the 32 bytes; ValueError for any other number."""
        self.name = name
        self._bytes = key
        self._key = Ed25519PublicKey.from_public_bytes(key)
        kind = _ED25519 + key
        self.key_hash = hashlib.sha256(f"{name}\n".encode() + kind).digest()[:_HASH_BYTES]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; ValueError for anything else."""
        found = _KEY.fullmatch(text.strip())
        try:
            decoded = base64.b64decode(found["key"], validate=True) if found else b""
        except binascii.Error:
            decoded = b""
        if found is None or decoded[:1] != _ED25519 or len(decoded) != 1 + _KEY_BYTES:
            raise ValueError("no public key of `userlog signed-heads --public-key`")
        made = cls(found["name"], decoded[1:])
        if made.key_hash.hex() != found["hash"]:
            raise ValueError("a public key that was cut or altered: its check does not fit")
        return made

    def __str__(self) -> str:
        """Write it, with its name and a check in front."""
        key = base64.b64encode(_ED25519 + self._bytes).decode()
        return f"{self.name}+{self.key_hash.hex()}+{key}"

    def check(self, note: str) -> SignedHead:
        """Return what a note says; ForgedError unless this key has signed it."""
        found = _NOTE.fullmatch(note)
        if found is None:
            raise ForgedError("is no signed note")
        signature = next(filter(None, map(self._ours, found["signatures"].split("\n"))), None)
        try:
            self._key.verify(signature or b"", found["text"].encode())
        except InvalidSignature:
            raise ForgedError(f"has no good signature of {self.name}") from None
        head = SignedHead.read(found["text"])
        if key_name(head.log_id) != self.name:
            raise ForgedError("is of another log than its key")
        return head

    def _ours(self, line: str) -> bytes | None:
        """Return the signature of a line; None if it says that it is another key's."""
        name, _, encoded = line.removeprefix(_SIGNATURE).rpartition(" ")
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except ValueError:
            return None
        ours = (name, decoded[:_HASH_BYTES]) == (self.name, self.key_hash)
        return decoded[_HASH_BYTES:] if ours else None


class SigningKey:
    """What signs a log's heads."""

    def __init__(self, secret: bytes, log_id: uuid.UUID) -> None:
        """Take the 32 secret bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = PublicKey(key_name(log_id), self._key.public_key().public_bytes_raw())

    def sign(self, head: SignedHead) -> str:
        """Return a head as a signed note."""
        text = head.text()
        signed = self.public.key_hash + self._key.sign(text.encode())
        return f"{text}\n{_SIGNATURE}{self.public.name} {base64.b64encode(signed).decode()}\n"


def notes_in(text: str) -> list[str]:
    """Return the notes of a file, one after the other; ForgedError if it is anything else.

    Empty lines may lie between them. It takes one look at each line, whatever the file is.
    """
    notes: list[str] = []
    said: list[str] = []
    signatures: list[str] = []
    ended = False  # the text, by an empty line
    for line in (*text.split("\n"), _END):
        if not line:
            ended = ended or bool(said)
        elif ended and line.startswith(_SIGNATURE):
            signatures.append(line)
        elif signatures:
            notes.append("\n".join((*said, "", *signatures, "")))
            said, signatures, ended = [line], [], False
        elif ended:
            break
        else:
            said.append(line)
    if not notes or said != [_END]:
        raise ForgedError("is no file of signed heads, or it was cut")
    return notes


async def signing_key(log: EventLog) -> SigningKey:
    """Return the log's key; it is made when it is first asked for."""
    return SigningKey(await log.own_keys.find_or_make("signing"), log.log_id)


async def known_key(log: EventLog) -> SigningKey | None:
    """Return the log's key, None if there is none yet; SealBrokenError if it was altered."""
    secret = await log.own_keys.find("signing")
    return None if secret is None else SigningKey(secret, log.log_id)


async def sign(log: EventLog, events_max: int, age_max: timedelta) -> list[StoredHead]:
    """Sign the heads that are due; return those that were.

    A head is due that has moved, or whose audit has, if it is so many events or so long after the
    last that was signed, or none was. UnavailableError.
    """
    async with log.connection() as connection:
        rows = await connection.fetch(_SQL["heads_to_sign"], events_max, age_max)
    if not rows:  # nor is a key made, which would decide under which master key the log is written
        return []
    key = await signing_key(log)
    signed = [_signed(log, key, row) for row in rows]
    async with log.connection() as connection:
        for head, row in zip(signed, rows, strict=True):
            where = (*head.position, row["audit_number"])
            await connection.execute(_SQL["signed_head_new"], *where, head.signed_at, head.note)
    return signed


def _signed(log: EventLog, key: SigningKey, row: asyncpg.Record) -> StoredHead:
    head = SignedHead(
        log.log_id,
        Position(row["partition"], row["position"]),
        row["chain"],
        row["now"],
        log.partitions,
        row["audit_number"],
        row["audit_chain"],
    )
    return StoredHead(head.position, row["now"], key.sign(head))


async def newest(log: EventLog) -> list[StoredHead]:
    """Return the newest signed head of each partition that has one."""
    async with log.connection() as connection:
        rows = await connection.fetch(_SQL["signed_heads_newest"])
    return [
        StoredHead(Position(row["partition"], row["position"]), row["signed_at"], row["note"])
        for row in rows
    ]
