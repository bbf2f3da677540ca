"""The attacks: what each sends, how often, how many at once, and what it may cost."""

from __future__ import annotations

import gzip
import itertools
import json
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from honest import PACE_S, get, post, post_head

from api.webhook.verify import sign
from tests.support.deliveries import APP, encoded, entry, envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEBIBYTE = 1 << 20
GZIP = "Content-Encoding: gzip"
HALF = 1_000
SMALL_A_SECOND, LARGE_A_SECOND, SIGNED_A_SECOND = 500, 50, 2
# What an attack may cost of the processor, in ms: without a signature, and with a made-up one.
NO_SIGNATURE_MS, MADE_UP_MS = 0.5, 4.0
# How far ahead of the log a position is that is waited for: the honest sender needs a second.
AHEAD = 30
ADDRESSES = tuple(f"127.0.0.{n}" for n in range(2, 51))
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Target(msgspec.Struct, frozen=True):
    """The service, its secret, a read token for everything and one for an application."""

    port: int
    secret: str
    token: str
    tenant: str
    head: int
    """The number of the last event, a moment ago."""


class Attack(NamedTuple):
    """One kind of attack."""

    name: str
    requests: Callable[[Target], Iterator[bytes]]
    """Makes them, without end."""
    answers: frozenset[int]
    """The statuses that it may be answered with; 0: none."""
    rate: float = SMALL_A_SECOND
    """How many begin in a second when it is paced."""
    at_once: int = 600
    """How many go on at once at most, when it is paced."""
    at_full: int = 64
    """How many go on at once at full speed."""
    cost_ms: float | None = None
    addresses: tuple[str, ...] = ("",)
    """Where its connections come from, in turn; empty: wherever the system likes."""
    whole: bool = True
    """Whether its requests are; on a connection that had another comes nothing more."""
    drips: bool = False
    """Whether a byte follows each second."""


def _made_up() -> str:
    return secrets.token_hex(32)


def _nested(_: Target) -> Iterator[bytes]:
    deep = ",".join(["[" * 90 + "]" * 90] * 5_700)
    body = gzip.compress(f'{{"event":{{"id":[{deep}]}}}}'.encode())
    return itertools.repeat(post(body, None, GZIP))


def _nuls(_: Target) -> Iterator[bytes]:
    return itertools.repeat(post(gzip.compress(bytes(64 * MEBIBYTE)), None, GZIP))


def _mebibyte(_: Target) -> Iterator[bytes]:
    return itertools.repeat(post(_delivery_of_a_mebibyte(), None))


def _mebibyte_made_up(_: Target) -> Iterator[bytes]:
    body = _delivery_of_a_mebibyte()
    return (post(body, _made_up()) for _ in itertools.count())


def _delivery_of_a_mebibyte() -> bytes:
    body = encoded(envelope([entry("u", note="@")]))
    return body.replace(b"@", b"x" * (MEBIBYTE - len(body) + 1))


def _heads(_: Target) -> Iterator[bytes]:
    return itertools.repeat(post_head(10, None))


def _halves(_: Target) -> Iterator[bytes]:
    return (post_head(2 * HALF, _made_up()) + b" " * HALF for _ in itertools.count())


def _large_halves(_: Target) -> Iterator[bytes]:
    half = b" " * (MEBIBYTE // 2)
    return (post_head(MEBIBYTE, _made_up()) + half for _ in itertools.count())


def _askers(_: Target) -> Iterator[bytes]:
    while True:
        token = f"userlog_{secrets.token_hex(4)}_{secrets.token_urlsafe()}"
        yield get(f"/v1/applications/{APP}/users/honest-1", token)


def _ready(_: Target) -> Iterator[bytes]:
    return itertools.repeat(get("/health/ready", ""))


def _streams(target: Target) -> Iterator[bytes]:
    path = f"/v1/events?after=0:{target.head}"
    return itertools.repeat(get(path, target.token, "Accept: text/event-stream"))


def _polls(target: Target) -> Iterator[bytes]:
    for ahead in _ahead(target):  # but one at the end: what is beyond it is refused at once
        position = ahead - AHEAD
        yield get(f"/v1/events?after=0:{position}&wait_s=60", target.token)


def _far_positions(target: Target) -> Iterator[bytes]:
    path = f"/v1/applications/{APP}/users/honest-1?min_position=0:99999999"
    return itertools.repeat(get(path, target.tenant))


def _waits(target: Target) -> Iterator[bytes]:
    for position in _ahead(target):
        path = f"/v1/applications/{APP}/users/honest-1?min_position=0:{position}"
        yield get(path, target.tenant)


def _ahead(target: Target) -> Iterator[int]:
    """Name positions that the honest sender will reach in a second."""
    began = time.monotonic()
    while True:
        yield target.head + int((time.monotonic() - began) / PACE_S) + AHEAD


def _signed(target: Target, make: Callable[[int], bytes]) -> Iterator[bytes]:
    """Sign deliveries, each another one."""
    for number in itertools.count(time.time_ns() // 1_000_000):
        body = make(number)
        yield post(body, sign(body, target.secret))


def _users_beside(target: Target) -> Iterator[bytes]:
    def make(number: int) -> bytes:
        users = [entry(f"beside-{number}-{n}") for n in range(1_200)]
        return encoded(envelope(users, at_ms=number) | {"note": "x" * 300_000})

    return _signed(target, make)


def _no_entries(target: Target) -> Iterator[bytes]:
    def make(number: int) -> bytes:
        body = encoded(envelope("@", at_ms=number))
        many = b"{}," * ((MEBIBYTE - len(body)) // 3 - 1) + b"{}"
        return body.replace(b'"@"', b"[" + many + b"]")

    return _signed(target, make)


def _many_users(target: Target) -> Iterator[bytes]:
    def make(number: int) -> bytes:
        first = "".join(_DIGITS[number // 36**n % 36] for n in range(2))
        ids = itertools.islice(itertools.product(_DIGITS, repeat=3), 42_000)
        users = ",".join(f'{{"user":{{"id":"{first}{"".join(one)}"}}}}' for one in ids)
        return encoded(envelope("@", at_ms=number)).replace(b'"@"', f"[{users}]".encode())

    return _signed(target, make)


def _new_names(target: Target) -> Iterator[bytes]:
    """Twelve deliveries of one user, each with other fields, then their history; over again."""
    for user in itertools.count(time.time_ns()):
        for number in range(12):
            fields = {f"n{number}_{n}": n for n in range(50_000)}
            tree = envelope([entry(f"names-{user}", **fields)], at_ms=number)
            body = json.dumps(tree, separators=(",", ":")).encode()
            yield post(body, sign(body, target.secret))
        yield get(f"/v1/applications/{APP}/users/names-{user}/history", target.token)


_UNPACKED, _UNSIGNED, _BROKEN_OFF = frozenset({415}), frozenset({401}), frozenset({0, 401, 408})
_NO_TOKEN, _OPEN, _TOO_MANY = frozenset({401, 503}), frozenset({200}), frozenset({0, 200, 429, 503})
_KEPT = frozenset({0, 200})

ATTACKS = {
    one.name: one
    for one in (
        Attack("nested", _nested, _UNPACKED, cost_ms=NO_SIGNATURE_MS),
        Attack("nuls", _nuls, _UNPACKED, cost_ms=NO_SIGNATURE_MS),
        Attack("mebibyte", _mebibyte, _UNSIGNED, LARGE_A_SECOND, 128, 8, NO_SIGNATURE_MS),
        Attack(
            "mebibyte-made-up", _mebibyte_made_up, _UNSIGNED, LARGE_A_SECOND, 128, 8, MADE_UP_MS
        ),
        Attack(
            "heads",
            _heads,
            _BROKEN_OFF,
            at_once=505,
            at_full=505,
            cost_ms=NO_SIGNATURE_MS,
            whole=False,
        ),
        Attack("askers", _askers, _NO_TOKEN, at_once=600, at_full=600, cost_ms=NO_SIGNATURE_MS),
        Attack("ready", _ready, _OPEN, cost_ms=NO_SIGNATURE_MS),
        Attack("streams", _streams, _TOO_MANY, at_once=500, at_full=500),
        Attack("polls", _polls, _TOO_MANY | {409}, at_once=500, at_full=500),
        Attack("far-positions", _far_positions, _TOO_MANY, at_once=520, at_full=520),
        Attack("waits", _waits, _TOO_MANY, at_once=500, at_full=500),
        Attack(
            "halves",
            _halves,
            _BROKEN_OFF,
            at_once=505,
            at_full=505,
            cost_ms=MADE_UP_MS,
            whole=False,
        ),
        Attack(
            "spread",
            _halves,
            _BROKEN_OFF,
            SMALL_A_SECOND,
            505,
            505,
            MADE_UP_MS,
            ADDRESSES,
            whole=False,
        ),
        Attack(
            "large-halves",
            _large_halves,
            _BROKEN_OFF,
            LARGE_A_SECOND,
            505,
            505,
            MADE_UP_MS,
            ADDRESSES,
            whole=False,
        ),
        Attack(
            "drips",
            _halves,
            _BROKEN_OFF,
            SMALL_A_SECOND,
            505,
            505,
            MADE_UP_MS,
            drips=True,
            whole=False,
        ),
        Attack("users-beside", _users_beside, _KEPT, SIGNED_A_SECOND, 32, 2),
        Attack("no-entries", _no_entries, _KEPT, SIGNED_A_SECOND, 32, 2),
        Attack("many-users", _many_users, _KEPT, SIGNED_A_SECOND, 32, 2),
        Attack("new-names", _new_names, frozenset({0, 200, 404}), SIGNED_A_SECOND, 8, 2),
    )
}
