"""From bytes to events: both envelopes, and everything that can be wrong with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.webhook.decode import decode, is_ping
from eventstore.events import Kind
from tests.support.deliveries import (
    APP,
    CREATE,
    DELETE,
    DELETE_VERBATIM,
    SAMPLE_USER,
    T0,
    T0_MS,
    UPDATE,
    delivery,
    documented,
    encoded,
    entry,
    envelope,
    spliced,
)
from tests.support.events import only, reasons

SECRET = "salman@example.com"


@pytest.mark.parametrize(
    ("sample", "kind"),
    [(CREATE, Kind.CREATED), (UPDATE, Kind.UPDATED), (DELETE, Kind.DELETED)],
    ids=["create", "update", "delete"],
)
def test_documented_sample(sample: bytes, kind: Kind) -> None:
    """Each documented sample is one event of that kind, its payload the body byte for byte."""
    event = only(sample)
    assert (event.application_id, event.user_id) == (APP, SAMPLE_USER)
    assert (event.kind, event.occurred_at, event.payload) == (kind, T0, sample)


@pytest.mark.parametrize(
    "body",
    [
        envelope([entry()]),
        envelope(entry()),
        documented([entry()], version="1"),
        documented(entry()) | {"user_id": SAMPLE_USER},
        {"data": envelope([entry()])},
        {"data": documented(entry())},
        envelope([entry()]) | {"application_id": APP},
        envelope([entry()], created_timestamp=None) | {"meta": {"created_timestamp": T0_MS}},
    ],
    ids=[
        *("delivered", "delivered-object", "documented", "documented-object"),
        *("below-data", "documented-below-data", "application-as-text", "time-in-meta"),
    ],
)
def test_envelopes(body: dict[str, Any]) -> None:
    """Every known envelope says the same about the same user."""
    event = only(encoded(body))
    assert (event.application_id, event.user_id) == (APP, "u")
    assert (event.kind, event.occurred_at) == (Kind.UPDATED, T0)
    assert event.identity == only(encoded(envelope([entry()]))).identity


def test_the_delivered_envelope_goes_first() -> None:
    """What stands at the top level overrules what stands below `meta`."""
    meta = {"event": {"name": "cart", "type": "delete"}, "created_timestamp": 1}
    meta["application_id"] = "another"
    event = only(encoded(envelope([entry()]) | {"meta": meta}))
    assert (event.application_id, event.kind, event.occurred_at) == (APP, Kind.UPDATED, T0)


@pytest.mark.parametrize(
    "body", [b'{"event":{"name":"ping"}}', b'{"meta":{"event":{"name":"ping"}}}']
)
def test_ping(body: bytes) -> None:
    """A ping is recognised in both envelopes and holds nothing."""
    assert is_ping(body)
    assert (decode(body).topic, decode(body).events, decode(body).rejected) == ("ping", [], [])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"name":"ping"}', b'"ping"', b'{"event":{"name":"cart"}}', UPDATE]
)
def test_no_ping(body: bytes) -> None:
    """Nothing else is taken for a ping, which needs no signature."""
    assert not is_ping(body)


@pytest.mark.parametrize("payload", [{"cart": 1}, [], "text", None, [entry()]])
def test_other_topics(payload: Any) -> None:
    """Of a delivery about anything but users only the topic is read."""
    found = decode(encoded(envelope(payload) | {"event": {"name": "address", "type": "create"}}))
    assert (found.topic, found.events, found.rejected) == ("address", [], [])


@pytest.mark.parametrize("type_", ["merge", "", "CREATE", None, 1, ["create"]])
def test_unknown_user_event(type_: Any) -> None:
    """A user event of another type is reported, never guessed at."""
    assert reasons(encoded(envelope([entry()], type_))) == ["unknown-event"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not-json"),
        (b"\xff\xfe", "not-json"),
        (UPDATE.rstrip()[:-1], "not-json"),
        (UPDATE + b"}", "not-json"),
        (DELETE_VERBATIM, "not-json"),
        (b"[]", "unknown-envelope"),
        (b"null", "unknown-envelope"),
        (b'"event"', "unknown-envelope"),
        (b"{}", "unknown-envelope"),
        (b'{"event":null,"meta":null,"data":null}', "unknown-envelope"),
        (b'{"event":"user"}', "unknown-envelope"),
        (b'{"event":["user"]}', "unknown-envelope"),
        (b'{"event":{"name":["user"]}}', "unknown-envelope"),
        (b'{"event":{"name":1}}', "unknown-envelope"),
        (b'{"meta":[]}', "unknown-envelope"),
        (b'{"data":[]}', "unknown-envelope"),
        (b'{"data":{"data":{"event":{"name":"user"}}}}', "unknown-envelope"),
        (encoded(envelope([])), "no-users"),
        (encoded(envelope("user")), "no-users"),
        (encoded(envelope(None)), "no-users"),
        (encoded(envelope(7)), "no-users"),
        (b'{"event":{"name":"user","type":"update"}}', "no-users"),
        (encoded(envelope({})), "no-user"),
        (encoded(envelope([SAMPLE_USER])), "no-user"),
        (encoded(envelope([{"user": [SAMPLE_USER]}])), "no-user"),
        (encoded(envelope([[]])), "no-user"),
        (encoded(envelope([{"user": {}}])), "no-user-id"),
        (encoded(envelope([entry()]) | {"application_id": None}), "no-application-id"),
        (encoded(envelope([entry()]) | {"application_id": []}), "no-application-id"),
        (encoded(envelope([entry()]) | {"application_id": ["a", "b"]}), "no-application-id"),
        (encoded(envelope([entry()]) | {"application_id": [["a"]]}), "no-application-id"),
        (encoded(envelope([entry()], created_timestamp=None)), "no-time"),
    ],
)
def test_unreadable(body: bytes, reason: str) -> None:
    """What can't be read is reported with a fixed word for the reason."""
    assert reasons(body) == [reason]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (DELETE_VERBATIM, "line 81, column 1"),
        (b'{"event":\n  {"name": salman@example.com}}', "line 2, column 12"),
        (b"salman@example.com", "line 1, column 1"),
    ],
    ids=["documented", "second-line", "first-byte"],
)
def test_broken_json_is_placed_and_not_quoted(body: bytes, place: str) -> None:
    """Broken JSON is reported with line and column."""
    (error,) = decode(body).rejected
    assert place in error.detail


@pytest.mark.parametrize(
    "body",
    [
        SECRET.encode(),
        encoded({"event": SECRET}),
        encoded({"event": {"name": [SECRET]}}),
        encoded({SECRET: SECRET}),
        encoded({"data": SECRET}),
        encoded(envelope(SECRET)),
        encoded(envelope([SECRET])),
        encoded(envelope([{SECRET: SECRET}])),
        encoded(envelope([{"user": SECRET}])),
        encoded(envelope([entry(email=SECRET)], SECRET)),
        encoded(envelope([entry(email=SECRET)], created_timestamp=SECRET)),
        encoded(envelope([{"user": {"email": SECRET}}])),
        encoded(envelope([entry(email=SECRET)]) | {"application_id": [SECRET, SECRET]}),
        delivery(**{SECRET: SECRET}).replace(b'"salman', b'"\xff', 1),
        spliced(envelope([entry(**{SECRET: "@"})]), b"7" * 5000),
        spliced(envelope([entry(**{SECRET: "@"})]), b"1e999"),
    ],
)
def test_a_reason_quotes_nothing(body: bytes) -> None:
    """Nothing of a delivery's content stands in what is said about it."""
    (error,) = decode(body).rejected
    assert "salman" not in f"{error} {error.reason} {error.detail}"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"_id": "a"}, "a"),
        ({"_id": "a", "id": "b", "userId": "c", "user_id": "d"}, "d"),
        ({"_id": "a", "id": "b", "userId": "c"}, "c"),
        ({"id": "b"}, "b"),
        ({"_id": 12345}, "12345"),
        ({"_id": "000000000000000000012345"}, "000000000000000000012345"),
        ({"user_id": "", "_id": "a"}, "a"),
        ({"user_id": None, "_id": "a"}, "a"),
        ({"user_id": True, "_id": "a"}, "a"),
        ({"user_id": 1.5, "_id": "a"}, "a"),
        ({"user_id": ["x"], "_id": "a"}, "a"),
        ({"user_id": "x\0y", "_id": "a"}, "a"),
        ({"user_id": "x" * 201, "_id": "a"}, "a"),
        ({"user_id": 10**200, "_id": "a"}, "a"),
        ({"user_id": "x" * 200}, "x" * 200),
        ({"_id": "\0"}, None),
        ({"_id": "x" * 201}, None),
        ({"_id": 0.5}, None),
        ({"_id": False}, None),
    ],
)
def test_user_id(ids: dict[str, Any], expected: str | None) -> None:
    """A user's id is the first usable one: short text without NUL, or a whole number."""
    body = encoded(envelope([{"user": ids}]))
    if expected is None:
        assert reasons(body) == ["no-user-id"]
    else:
        assert only(body).user_id == expected


@pytest.mark.parametrize("of_envelope", [["another"], "another", ["a", "b"], [], None, "\0"])
def test_a_users_own_application_goes_first(of_envelope: Any) -> None:
    """The application of the user overrules the envelope's, which may name several."""
    for name in ("application_id", "applicationId"):
        body = envelope([entry(**{name: APP})]) | {"application_id": of_envelope}
        assert only(encoded(body)).application_id == APP


@pytest.mark.parametrize(
    "at",
    [T0_MS, T0_MS / 1000, str(T0_MS), "2023-06-13T09:48:47.621Z", "2023-06-13T15:18:47.621+05:30"],
    ids=["ms", "s", "text", "iso", "iso-offset"],
)
def test_created_timestamp(at: Any) -> None:
    """The time of an event is read from every form it may take."""
    body = encoded(envelope([entry()], created_timestamp=at))
    assert only(body).occurred_at == T0


@pytest.mark.parametrize("at", [None, 10**30, "soon", "", True, [T0_MS], {}, "9" * 18])
@pytest.mark.parametrize("name", ["updated_at", "updatedAt", "created_at", "createdAt"])
def test_without_a_usable_time(at: Any, name: str) -> None:
    """An event without a usable time takes the user's own."""
    user = entry(**{name: "2023-06-13T09:48:47.621Z"})
    assert only(encoded(envelope([user], created_timestamp=at))).occurred_at == T0
    assert reasons(encoded(envelope([entry()], created_timestamp=at))) == ["no-time"]


def test_several_users() -> None:
    """A delivery of several users is taken apart, every byte around an entry as it was."""
    first, second = (
        b'{ "user": {"_id":"a", "x":"\\u00e9 \xc3\xa9"} }',
        b'{"user":{"_id":"b"},"y":[ ]}',
    )
    head = b' {"payload" : [1], "event": {"type":"create","name":"user" ,"created_timestamp":1}'
    tail = b', "application_id":"app", "note":"[\\"payload\\": ]" }\n'
    body = head + b',\t"payload":[' + first + b" ,\n" + second + b" ]" + tail
    found = decode(body)
    assert found.rejected == []
    assert [event.user_id for event in found.events] == ["a", "b"]
    assert [event.payload for event in found.events] == [
        head + b',\t"payload":[' + one + b"]" + tail for one in (first, second)
    ]


def test_a_payload_that_occurs_elsewhere_too() -> None:
    """Only the payload itself is restricted, not its like before or after it."""
    payload = encoded([entry("a"), entry("b")])
    body = {"first": "@", **envelope("@"), "contains": "@", "last": ["@"]}
    for event, name in zip(decode(spliced(body, payload)).events, "ab", strict=True):
        alone = body | {"payload": [entry(name)]}
        assert event.payload == spliced(alone, payload)


def test_one_bad_entry_fails_alone() -> None:
    """What can't be read of a delivery leaves the rest of it whole."""
    good = [encoded(entry(name)) for name in "abc"]
    bad = [b"7", b'{"user":{}}', b'{"user":{"_id":"x","y":"\xff"}}', b'{"user":{"_id":1e999}}']
    entries = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2]]
    found = decode(spliced(envelope("@"), b"[" + b",".join(entries) + b"]"))
    assert [event.user_id for event in found.events] == ["a", "b", "c"]
    assert [error.reason for error in found.rejected][:3] == ["no-user", "no-user-id", "not-json"]
    assert len(found.rejected) == len(bad)


def test_many_users() -> None:
    """Each of a thousand users in one delivery is an event with a payload of its own."""
    found = decode(encoded(envelope([entry(str(n)) for n in range(1000)])))
    assert [event.user_id for event in found.events] == [str(n) for n in range(1000)]
    assert json.loads(found.events[-1].payload or b"")["payload"] == [entry("999")]


def test_a_place_is_not_looked_for_for_ever() -> None:
    """A payload whose like occurs at too many places before it is reported."""
    assert reasons(encoded({"x": [[1, 2]] * 50, **envelope([1, 2])})) == ["no-user", "no-user"]
    assert reasons(encoded({"x": [[1, 2]] * 500, **envelope([1, 2])})) == ["no-users"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"]}":'], ids=["lists", "objects", "both"])
@pytest.mark.parametrize("where", ["user", "beside", "envelope"])
def test_deep_nesting(opening: bytes, where: str) -> None:
    """JSON is read down to a fixed depth, wherever it is and whoever reads it again later."""
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"]}":': b"}]"}[opening]
    template = {
        "user": envelope([entry(deep="@")]),
        "beside": envelope([entry() | {"deep": "@"}]),
        "envelope": envelope([entry()]) | {"deep": "@"},
    }[where]

    def nested(levels: int) -> bytes:
        return spliced(template, opening * levels + b"0" + closing * levels)

    allowed = 90 // len(closing)
    assert only(nested(allowed)).user_id == "u"
    for levels in (allowed + 20, 500, 100_000):
        assert reasons(nested(levels)) == ["not-json"]


def test_brackets_in_text_are_not_nesting() -> None:
    """Only real nesting counts, not brackets in strings and not many users side by side."""
    assert only(delivery(x='["\\' * 500)).user_id == "u"
    assert len(decode(encoded(envelope([entry(str(n)) for n in range(300)]))).events) == 300


def test_huge_numbers() -> None:
    """Whole numbers beyond 64 bits are kept; beyond what can be read they are reported."""
    assert only(delivery(x=10**60)).user_id == "u"
    for number in (b"7" * 5000, b"1e999"):
        assert len(reasons(spliced(envelope([entry(x="@")]), number))) == 1


def test_identity_without_an_id_is_the_content() -> None:
    """Without the platform's id the content names the event, not the way it is written."""
    spaced = json.dumps(json.loads(UPDATE), indent=7, sort_keys=True).encode()
    assert spaced != UPDATE
    assert only(spaced).identity == only(UPDATE).identity
    assert only(spaced).content == only(UPDATE).content
    assert only(UPDATE.replace(b"Salman", b"Salm\\u0061n")).identity == only(UPDATE).identity
    assert only(UPDATE.replace(b"Salman", b"Salmon")).identity != only(UPDATE).identity
    assert only(UPDATE.replace(b"727621", b"727622")).identity != only(UPDATE).identity
    assert only(UPDATE).dated


def test_the_samples_are_three_events() -> None:
    """The documented events differ in identity, though they share their time and trace id."""
    assert len({only(sample).identity for sample in (CREATE, UPDATE, DELETE)}) == 3


def test_identity_with_an_id_is_the_id() -> None:
    """The platform's id names the event; other content under it is seen in `content` alone."""
    first = only(delivery(event_id="e1", first_name="A"))
    assert only(delivery(event_id="e1", first_name="A")) == first
    assert only(delivery(event_id="e1", first_name="B")).identity == first.identity
    assert only(delivery(event_id="e1", first_name="B")).content != first.content
    assert only(delivery(event_id="e1", kind="delete", first_name="A")).content != first.content
    assert only(delivery(event_id="e2", first_name="A")).identity != first.identity
    assert only(delivery(event_id=7)).identity == only(delivery(event_id="7")).identity
    assert not first.dated, "the same id at another time would be another event"


@pytest.mark.parametrize("event_id", ["", "x" * 201, "a\0b", True, [1], {}])
def test_an_unusable_id_is_none(event_id: Any) -> None:
    """An event id that can't be one leaves the content to name the event."""
    assert only(delivery(event_id=event_id)).identity == only(delivery()).identity


def test_one_user_twice_in_a_delivery() -> None:
    """Two entries of one user under one event id are two events; the same without id is one."""
    twice = [entry(first_name="A"), entry(first_name="B")]
    a, b = decode(encoded(envelope(twice, id="e1"))).events
    assert a.identity != b.identity
    again = decode(encoded(envelope(twice, id="e1"))).events
    assert [event.identity for event in again] == [a.identity, b.identity]
    same = decode(encoded(envelope([entry(), entry()]))).events
    assert same[0].identity == same[1].identity
