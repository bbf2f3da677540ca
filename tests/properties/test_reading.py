"""Whatever arrives is read or refused, and what was read once is read the same ever after."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeAlias

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from api.webhook.decode import Decoded, decode, is_ping
from eventstore.events import Kind, NewEvent, Position, RecordedEvent, Stream
from projections.deliveries.values import read_time
from projections.fold.events import ORDER_KEY_BYTES, TIE_BREAK_BYTES, read_event
from projections.fold.history import replay
from projections.fold.state import encode_fields
from tests.support.deliveries import (
    CREATE,
    DELETE,
    DELETE_VERBATIM,
    SAMPLE_USER,
    UPDATE,
    delivery,
    encoded,
    entry,
    envelope,
)
from tests.support.events import record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = (
    st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["user", "create", "1"])
NAMES = TEXT | st.sampled_from(
    [
        *("event", "meta", "data", "payload", "user", "name", "type", "id", "created_timestamp"),
        *("application_id", "company_id", "_id", "user_id", "emails", "phoneNumbers", "phone"),
        *("country_code", "countryCode", "updated_at", "__v", "active", "extra", "verified"),
    ]
)
JSON = st.recursive(
    LEAVES, lambda one: st.lists(one, max_size=4) | st.dictionaries(NAMES, one, max_size=5)
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=6)
TYPES = st.sampled_from(["create", "update", "delete"])


def handled(body: bytes) -> Decoded:
    """Do all that is ever done with a delivery; nothing of it may raise."""
    found = decode(body)
    assert found.events or found.rejected or found.topic not in {"user", ""}
    for event in found.events:
        alone = decode(event.payload or b"")
        assert (len(alone.events), alone.rejected) == (1, [])
        (recorded,) = record([event])
        state, entries = replay([read_event(recorded)])
        assert state
        assert msgspec.json.decode(encode_fields(state.fields)) == state.fields
        msgspec.json.encode([entry.changes for entry in entries])
    is_ping(body)
    return found


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """No bytes make reading raise."""
    handled(body)


@given(JSON)
def test_any_json(body: Any) -> None:
    """No JSON makes reading raise."""
    handled(encoded(body))


@given(OBJECTS, OBJECTS, OBJECTS, TYPES)
@example({"phone_numbers": [{"phone": "1", "country_code": "9" * 5000}]}, {}, {}, "update")
@example({"x": json.loads("[" * 90 + "]" * 90)}, {}, {}, "update")
def test_any_user(user: Any, beside: Any, around: Any, type_: str) -> None:
    """Nothing in a user, beside it or around it makes the fold raise on what was accepted."""
    around.pop("meta", None)  # it could be no envelope
    known = envelope([{**beside, **entry(**{**user, "_id": SAMPLE_USER})}], type_)
    assert len(handled(encoded({**around, **known})).events) == 1


@given(
    sample=st.sampled_from([CREATE, UPDATE, DELETE, DELETE_VERBATIM]),
    cut=st.tuples(st.integers(0, 2000), st.integers(0, 20)),
    put=st.binary(max_size=8) | st.sampled_from([b"null", b"[]", b"{}", b'""', b"-1", b"[", b'"']),
)
def test_damaged_samples(sample: bytes, cut: tuple[int, int], put: bytes) -> None:
    """A sample with some bytes replaced is read or refused."""
    start, length = cut
    handled(sample[:start] + put + sample[start + length :])


def usable(text: str) -> bool:
    """Say whether this can be an id."""
    return text != "" and "\0" not in text


def joined(raws: list[bytes]) -> bytes:
    """Make a payload of entries."""
    return b"[" + b" ,\n".join(raws) + b"]"


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[bytes, list[bytes], bytes]:
    """Envelopes with users in them, as the bytes before, of each entry, and after."""
    styles = st.sampled_from([None, 1, "\t"])
    ids = draw(st.lists(TEXT.filter(usable), min_size=2, max_size=4, unique=True))
    made = [{**draw(OBJECTS), "user": {**draw(OBJECTS), "user_id": one}} for one in ids]
    raws = [json.dumps(one, indent=draw(styles)).encode() for one in made]
    type_, id_, around = draw(TYPES), draw(LEAVES), draw(OBJECTS)
    around.pop("meta", None)  # it could be no envelope
    decoy = draw(st.just("the payload again") | JSON)
    about: dict[str, Any] = {
        "a": decoy,
        **around,
        **envelope("the payload itself", type_, id=id_),
        "z": [decoy],
    }
    if draw(st.booleans()):
        about = {"x": 1, "data": about, "y": decoy}
    text = json.dumps(about, indent=draw(styles)).encode()
    before, _, after = text.replace(b'"the payload again"', joined(raws)).partition(
        b'"the payload itself"'
    )
    return before, raws, after


@given(deliveries())
def test_an_entry_alone_is_the_same_event(parts: tuple[bytes, list[bytes], bytes]) -> None:
    """Taken apart, each user's payload has every other byte as it was and reads as that event."""
    before, raws, after = parts
    found = decode(before + joined(raws) + after)
    assert found.rejected == []
    assert [event.payload for event in found.events] == [before + joined([r]) + after for r in raws]
    for event in found.events:
        assert decode(event.payload or b"").events == [event]


@given(st.text() | NUMBERS | st.floats() | JSON | st.binary())
@example(math.nan)
@example("0001-01-01T00:00:00+23:59")
def test_moment_never_raises(value: Any) -> None:
    """Anything is a moment in UTC to the millisecond, or none."""
    found = read_time(value)
    assert found is None or (found.tzinfo is UTC and found.microsecond % 1000 == 0)


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1974, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS)  # noqa: DTZ001 - hypothesis adds the zone


@given(MOMENTS)
def test_moments_are_read_in_every_form(time: datetime) -> None:
    """ISO 8601 with any offset, and milliseconds as number or text, are the same moment."""
    milliseconds = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    expected = time.astimezone(UTC).replace(microsecond=time.microsecond // 1000 * 1000)
    for form in (time.isoformat(), milliseconds, str(milliseconds)):
        assert read_time(form) == expected


Rank: TypeAlias = tuple[datetime, Kind, datetime | None, int | None]


@st.composite
def ranks(draw: st.DrawFn) -> Rank:
    """Everything that orders an event, but its content."""
    few = st.sampled_from([datetime(2023, 6, 13, tzinfo=UTC), datetime(2023, 6, 14, tzinfo=UTC)])
    times = few | st.datetimes(timezones=st.just(UTC))
    kinds = st.sampled_from([Kind.CREATED, Kind.UPDATED, Kind.DELETED])
    versions = st.integers(-2, 2) | st.integers(-(2**62) + 1, 2**62 - 1)
    return draw(times), draw(kinds), draw(st.none() | times), draw(st.none() | versions)


def order_key(rank: Rank) -> bytes:
    """Return the order key of such an event, without the part that breaks ties."""
    occurred_at, kind, updated_at, version = rank
    fields: dict[str, Any] = {} if version is None else {"__v": version}
    if updated_at is not None:
        fields["updated_at"] = updated_at.isoformat()
    stream = Stream.of("a", "u", 1)
    payload = delivery(**fields)
    identity = bytes(16)
    event = RecordedEvent(Position(0, 1), stream, kind, occurred_at, occurred_at, identity, payload)
    return read_event(event).order_key[:-TIE_BREAK_BYTES]


@given(ranks(), ranks())
def test_order_keys_sort_like_what_is_in_them(
    one: Rank,
    other: Rank,
) -> None:
    """Keys sort by time, kind, `updated_at` and `__v`; what is absent comes first."""

    def comparable(rank: Rank) -> tuple[Any, ...]:
        occurred_at, kind, updated_at, version = rank
        cut = [
            time and time.replace(microsecond=time.microsecond // 1000 * 1000)
            for time in (occurred_at, updated_at)
        ]
        lowest = datetime.min.replace(tzinfo=UTC)
        return cut[0], kind, cut[1] is not None, cut[1] or lowest, version is not None, version or 0

    ours, theirs = comparable(one), comparable(other)
    assert (order_key(one) < order_key(other)) == (ours < theirs)
    assert (order_key(one) == order_key(other)) == (ours == theirs)
    assert ORDER_KEY_BYTES[0] <= len(order_key(one)) + TIE_BREAK_BYTES <= ORDER_KEY_BYTES[1]


@given(TEXT, TEXT, TEXT, TEXT)
def test_streams_are_told_apart(a: str, b: str, c: str, d: str) -> None:
    """Two users share a stream only if both their ids are equal."""
    ids = [text.replace("\0", "") for text in (a, b, c, d)]
    one, other = Stream.of(ids[0], ids[1], 7), Stream.of(ids[2], ids[3], 7)
    assert (one.stream_id == other.stream_id) == (ids[:2] == ids[2:])
    assert 0 <= one.partition < 7


def test_new_events_compare_by_value() -> None:
    """The properties above rest on events comparing by all they hold."""
    (event,) = decode(CREATE).events
    assert event == NewEvent(*msgspec.structs.astuple(event))
    assert event != msgspec.structs.replace(event, payload=b"")
