"""Sealed payloads: they open with their own key in their own place, or not at all."""

from __future__ import annotations

import gc
import json

import pytest

from eventstore.errors import SealBrokenError
from eventstore.sealing.keyring import StreamKey
from eventstore.sealing.keys import DataKey, MasterKey
from tests.support.deliveries import CREATE, DELETE, UPDATE, encoded

KEY = DataKey.of(bytes(range(32)))
OTHER = DataKey.of(bytes(32))
MASTER = MasterKey(bytes(range(32)))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0", b"x", CREATE, UPDATE, DELETE, bytes(range(256)) * 40, bytes(1 << 20)],
    ids=["empty", "nul", "one", "create", "update", "delete", "binary", "zeros"],
)
def test_round_trip(payload: bytes) -> None:
    """Any bytes come back as they were."""
    assert KEY.open(KEY.seal(payload, b"context"), b"context") == payload


def test_every_byte_counts() -> None:
    """No byte can be changed, dropped or added: version, nonce, ciphertext or tag."""
    sealed = KEY.seal(CREATE, b"context")
    altered = [
        sealed[:n] + bytes((sealed[n] ^ bit,)) + sealed[n + 1 :]
        for n in range(len(sealed))
        for bit in (1, 128)
    ]
    altered += [bytes((version,)) + sealed[1:] for version in range(256) if version != sealed[0]]
    shorter = [sealed[:n] for n in range(len(sealed))]
    for broken in (*altered, *shorter, sealed[1:], sealed + b"\0", b"\0" + sealed):
        with pytest.raises(SealBrokenError):
            KEY.open(broken, b"context")


def test_another_key_or_place() -> None:
    """A payload opens neither with another user's key nor at another place in the log."""
    sealed = KEY.seal(CREATE, b"context")
    for key, context in ((OTHER, b"context"), (KEY, b"contexts"), (KEY, b"")):
        with pytest.raises(SealBrokenError):
            key.open(sealed, context)


def test_sealing_twice_shows_no_likeness() -> None:
    """The same payload sealed again shares nothing but the version byte and its length."""
    first, second = KEY.seal(CREATE, b"context"), KEY.seal(CREATE, b"context")
    assert len(first) == len(second)
    assert first[:1] == second[:1] == b"\2"
    assert first[1:13] != second[1:13]
    assert first[13:] != second[13:]


@pytest.mark.parametrize("indent", [None, 0], ids=["compact", "lines"])
def test_another_users_delivery_is_small(indent: int | None) -> None:
    """With the shipped dictionary, a delivery of other data takes a fraction of its size."""
    body = encoded(json.loads(CREATE))
    if indent is not None:
        body = json.dumps(json.loads(CREATE), indent=indent).encode()
    for old, new in (
        (b"6487fc9f66a6031a8b68f523", b"64f0c2d1a7b9e35586421397"),
        (b"000000000000000000000001", b"65ab93be0c1d7e2f48a6b551"),
        (b"Salman", b"Fernanda"),
        (b"Saudagar", b"Vasconcelos"),
        (b"salmansaudagar", b"fernanda.vasconcelos"),
        (b"8285462419", b"9137700462"),
        (b"2023-06-13T05:20:31.356Z", b"2025-11-02T17:44:09.071Z"),
        (b"1686649727621", b"1762105449071"),
        (b"043dbfb0-09aa-11ee-afa1-21e8b63e081b", b"9be0a7c4-b818-11f0-8de9-0242ac120002"),
    ):
        assert old in body
        body = body.replace(old, new)
    assert len(KEY.seal(body, b"context")) < len(body) / 5


def test_names_are_keyed() -> None:
    """Identity and digest depend on the source and the key, and differ from one another."""
    names = {
        KEY.identity(b"a"),
        KEY.identity(b"b"),
        OTHER.identity(b"a"),
        KEY.digest(b"a"),
        KEY.digest(b"b"),
        OTHER.digest(b"a"),
    }
    assert {len(name) for name in names} == {8, 16}
    assert len(names) == 6


def test_pinned_names() -> None:
    """Identities and digests stand in databases: the same key gives the same for ever."""
    assert KEY.identity(b"source").hex() == "ae6d7366ccfe692f21ef60d752c181ee"
    assert KEY.digest(b"content").hex() == "7ecf8b6f07f2c29d"
    assert (
        MASTER.tombstone_key(b"context").identity(b"source").hex()
        == "5e082fb593fbb57296977e3c87383a3b"
    )


@pytest.mark.parametrize(
    "sealed",
    [
        "01b72887736d9b3ed932bc4658dfd56df7e865c9e154ae57e22c06a967a0f1ef23dc0766a2f788f470d57414eef239e8c9",
        "02aef4f21bf5a8a5e81355f76147213b83cb0d98dca9bbb18fba6049babe6ee6b6bde4e648f35d5b0a75a074a01f82724e",
    ],
    ids=["1", "2"],
)
def test_pinned_seals(sealed: str) -> None:
    """What an earlier build sealed still opens."""
    assert KEY.open(bytes.fromhex(sealed), b"context") == b'{"user":{}}'


def test_pinned_keys() -> None:
    """What an earlier build wrapped still opens."""
    unwrapped = MASTER.unwrap(
        bytes.fromhex(
            "01bc0a9003a8733eeab8dcd1a31b7f72163322617554cbc9eaa10130ac6a7efadada89282575f0a0e1cb5ad198d140122b8b81c115807977623d37b7f6"
        ),
        b"context",
    )
    assert unwrapped.identity(b"source") == KEY.identity(b"source")


def test_a_data_key_is_wrapped() -> None:
    """A user's key comes back from its wrapping, under the same master key and stream only."""
    wrapped, key = MASTER.new_data_key(b"stream")
    sealed = key.seal(CREATE, b"context")
    assert MASTER.unwrap(wrapped, b"stream").open(sealed, b"context") == CREATE
    for master, context in ((MasterKey(bytes(32)), b"stream"), (MASTER, b"another")):
        with pytest.raises(SealBrokenError):
            master.unwrap(wrapped, context)
    another, _ = MASTER.new_data_key(b"stream")
    assert another[13:] != wrapped[13:]


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(length: int) -> None:
    """A key of any other length is refused with both numbers."""
    with pytest.raises(ValueError, match=f"32 bytes, this one has {length}$"):
        MasterKey(bytes(length))


def test_an_erased_user_is_named_anew() -> None:
    """After erasure events are named by a key of the master and the stream, the same each time."""
    first, again = MASTER.tombstone_key(b"stream"), MASTER.tombstone_key(b"stream")
    assert first.identity(b"a") == again.identity(b"a")
    assert first.identity(b"a") != MASTER.tombstone_key(b"another").identity(b"a")
    assert first.identity(b"a") != MasterKey(bytes(32)).tombstone_key(b"stream").identity(b"a")


def test_a_kept_key() -> None:
    """What is kept of a user shows no secret, and the garbage collector passes it over."""
    kept = StreamKey(1, KEY)
    assert repr(KEY) == f"{KEY}" == "DataKey(…)"
    assert "DataKey(…)" in repr(kept)
    assert not gc.is_tracked(KEY)
    assert not gc.is_tracked(kept)
