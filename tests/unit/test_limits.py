"""One signed body is bounded work: what is beyond a limit is found before it is decoded."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from api.webhook.decode import UNLIMITED, Limits, decode, decode_usual, decoding
from eventstore.events import Stream
from eventstore.sealing.keyring import StreamKey
from eventstore.sealing.keys import Ciphers, MasterKey
from eventstore.sealing.seal import seal, seal_all
from projections.fold.timeslice import Timeslices
from tests.support.deliveries import APP, delivery, documented, encoded, entry, envelope, spliced
from tests.support.events import event

LIMITS = Limits(entries_max=3, events_bytes_max=1_000, entry_values_max=50, extra_names_max=4)


def below_data(payload: Any) -> dict[str, Any]:
    """The delivered envelope, nested."""
    return {"data": envelope(payload)}


def outcome(body: bytes, limits: Limits = LIMITS) -> tuple[int, list[str]]:
    """Return how many events there are, and why not more."""
    found = decode(body, limits)
    return len(found.events), [f"{e.reason}: {e.detail}" for e in found.rejected]


def unknown(count: int) -> dict[str, Any]:
    """Fields that are known, and so many that are not."""
    known: dict[str, Any] = {"gender": "male", "first_name": "A", "emails": []}
    return known | dict.fromkeys(map(str, range(count)))


@pytest.mark.parametrize("shape", [envelope, documented, below_data])
def test_entries(shape: Any) -> None:
    """As many entries as there may be are taken, one more and none is."""
    users = [entry(str(n)) for n in range(4)]
    assert outcome(encoded(shape(users[:3]))) == (3, [])
    (said,) = outcome(encoded(shape(users)))[1]
    assert said == "beyond-limits: more than 3 entries (USERLOG_DELIVERY_ENTRIES_MAX)"


@pytest.mark.parametrize("kind", ["1", '"ab"', "[]", "{}", '[1, {"a": [1, 2]}]', "null"])
def test_entries_of_any_kind(kind: str) -> None:
    """Entries are counted whatever they are, and commas inside them are not entries."""
    for count in (2, 3, 4):
        raw = b"[" + b",".join([encoded(entry("u", x=[1, 2, 3])), *[kind.encode()] * count]) + b"]"
        _, said = outcome(spliced(envelope("@"), raw), Limits(entries_max=4))
        assert [one.partition(":")[0] for one in said] == (
            ["beyond-limits"] if count == 4 else ["no-user"] * count
        )


def test_bytes_with_the_envelope() -> None:
    """What counts is what would be stored: each entry with its envelope."""
    users = [entry("a"), entry("b")]
    body, one = encoded(envelope(users)), encoded(envelope(users[:1]))
    stored = (
        2 * len(one) - len(b"[]") - len(b"[]") + len(encoded(users)) - 2 * len(encoded(entry("a")))
    )
    assert outcome(body, Limits(events_bytes_max=stored + 2)) == (2, [])
    (said,) = outcome(body, Limits(events_bytes_max=stored - 3))[1]
    assert said.endswith(
        "bytes of entries, each with the envelope (USERLOG_DELIVERY_EVENTS_BYTES_MAX)"
    )
    assert outcome(one, Limits(events_bytes_max=1)) == (1, []), "one alone is not copied"


def test_unknown_fields() -> None:
    """Only names that would stand below `extra` count, and one user beyond stops the delivery."""
    assert outcome(delivery(**unknown(4))) == (1, [])
    (said,) = outcome(encoded(envelope([entry("a"), entry("b", **unknown(5)), 7])))[1]
    assert said == "beyond-limits: more than 4 unknown fields of a user (USERLOG_EXTRA_NAMES_MAX)"


@pytest.mark.parametrize("beside", [[], [entry("b")]])
def test_values(beside: list[Any]) -> None:
    """A user with too many values is not decoded; others beside them don't count with them."""
    fits, much = entry("a", x=[0] * 40), entry("a", x=[0] * 60)
    assert outcome(encoded(envelope([fits, *beside, *beside]))) == (1 + 2 * len(beside), [])
    (said,) = outcome(encoded(envelope([*beside, much])))[1]
    assert said == "beyond-limits: more than 50 values in an entry (USERLOG_ENTRY_VALUES_MAX)"


def test_values_of_the_envelope() -> None:
    """What surrounds the users is bounded too."""
    body = envelope([entry()], id=[0] * 60)
    for shape in (body, {"data": body}):
        (said,) = outcome(encoded(shape))[1]
        assert said.startswith("beyond-limits: more than 50 values in the envelope")


MANY = 300_000
HUGE = {
    "entries": spliced(envelope("@"), b"[" + b"{}," * MANY + b"{}]"),
    "numbers": spliced(envelope("@"), b"[" + b"1," * MANY + b"1]"),
    "lists": spliced(envelope([entry(x="@")]), b"[" + b"[]," * MANY + b"[]]"),
    "names": spliced(envelope([entry(x="@")]), encoded(dict.fromkeys(map(str, range(90_000))))),
    "envelope": spliced(envelope([entry()], id="@"), b"[" + b"[]," * MANY + b"[]]"),
    "copies": encoded({**envelope([entry(str(n)) for n in range(900)]), "x": "x" * 900_000}),
    "unknown": spliced(envelope([entry()]), b"").replace(
        b'"u"', b'"u",' + encoded(unknown(6_000))[1:-1]
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_beyond_is_neither_decoded_nor_copied(name: str) -> None:
    """A mebibyte that is beyond a limit takes no more than a few times its size in memory."""
    tracemalloc.start()
    try:
        found = decode(HUGE[name])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [error.reason for error in found.rejected] == ["beyond-limits"]
    assert found.events == []
    assert most < 6 << 20


def test_the_defaults_are_far_above_what_is_sent() -> None:
    """A thousand ordinary users in one delivery are taken."""
    users = [entry(str(n), **unknown(20), username="a@b.c") for n in range(1_000)]
    assert outcome(encoded(envelope(users)), Limits()) == (1_000, [])
    assert outcome(encoded(envelope(users * 5)), UNLIMITED) == (5_000, [])


async def test_decoding_gives_way() -> None:
    """While a delivery of many users is decoded, others have their turns."""
    body = encoded(envelope([entry(str(n), **unknown(20)) for n in range(1_000)]))
    turns = await turns_during(Timeslices().run(decoding(body, Limits())))
    assert turns > 3
    steps = sum(1 for _ in decoding(body, Limits()))
    assert steps >= 999, "it can be interrupted after each user"
    assert decode_usual(delivery(), Limits()), "one user is decoded at once"


async def test_sealing_gives_way() -> None:
    """While many events are sealed, others have their turns; the result is the same."""
    wrapped, data_key = MasterKey(bytes(32)).new_data_key(bytes(16))
    key, stream, ciphers = StreamKey(1, data_key, wrapped), Stream.of(APP, "u", 1), Ciphers()
    events = [event(name=str(n), payload=bytes(10_000)) for n in range(200)]
    given = (events, [stream] * 200, [key] * 200)
    sealed: list[Any] = []

    async def work() -> None:
        sealed.extend(await seal_all(*given, ciphers))

    assert await turns_during(work()) > 10
    known = [seal(*one, ciphers)._replace(payload=b"") for one in zip(*given, strict=True)]
    assert [one._replace(payload=b"") for one in sealed] == known


async def turns_during(work: Any) -> int:
    """Return how often somebody else had a turn."""
    turns = 0
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns
