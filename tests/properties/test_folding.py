"""In whatever order a user's events arrive, and however often, they make the same user.

The reference below knows nothing of the fold: it looks, for each field by itself, for the newest
event that carries it.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from projections.history import HistoryEntry, replay
from projections.state import UserEvent, UserState, encode_fields, read_event
from tests.unit.support import AT_MS, encoded, entry, envelope, only, record

KINDS = ("create", "update", "delete")
PLAIN: dict[str, tuple[str, list[Any]]] = {
    "first_name": ("firstName", ["A", "B", "", None]),
    "gender": ("gender", ["male", "female", None]),
    "active": ("active", [True, False, None]),
    "profile_pic_url": ("profilePicUrl", ["/a", "/b"]),
}
FLAGS = {"verified": st.booleans(), "primary": st.booleans()}


class Told(NamedTuple):
    """What an event says, and the delivery that says it."""

    kind: str
    at: int
    updated_at: int | None
    version: int | None
    fields: dict[str, Any]
    body: bytes


def _contacts(draw: st.DrawFn, value: str) -> Any:
    values = {"email": ["a@b.c", "d@e.f"], "phone": ["1", "2"]}[value]
    some = draw(st.lists(st.sampled_from(values), unique=True))
    contacts = [{value: one, **draw(st.fixed_dictionaries({}, optional=FLAGS))} for one in some]
    return draw(st.sampled_from([None, contacts, contacts, contacts]))


@st.composite
def tellings(draw: st.DrawFn) -> Told:
    """An event with some fields, written in one case or the other or both."""
    fields: dict[str, Any] = {}
    user: dict[str, Any] = {}
    for name, (camel, values) in PLAIN.items():
        if draw(st.booleans()):
            fields[name] = draw(st.sampled_from(values))
            twins = [{name: fields[name]}, {camel: fields[name]}, {camel: "no", name: fields[name]}]
            user |= draw(st.sampled_from(twins if camel != name else twins[:1]))
    for name, camel, value in (
        ("emails", "emails", "email"),
        ("phone_numbers", "phoneNumbers", "phone"),
    ):
        if draw(st.booleans()):
            fields[name] = _contacts(draw, value)
            user[draw(st.sampled_from([name, camel]))] = fields[name]
    extra = draw(st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers(0, 2)))
    fields |= {f"extra.{name}": value for name, value in extra.items()}
    beside: dict[str, Any] = draw(
        st.sampled_from([{}, {}, {"socialAccounts": []}, {"socialAccounts": [1]}])
    )
    if beside:
        fields["social_accounts"] = beside["socialAccounts"]
    updated_at = draw(st.sampled_from([None, AT_MS - 1, AT_MS]))
    version = draw(st.sampled_from([None, 0, 1]))
    ranks = {"updated_at": updated_at, "__v": version}
    ranks = {name: value for name, value in ranks.items() if value is not None}
    kind, at = draw(st.sampled_from(KINDS)), draw(st.sampled_from([AT_MS, AT_MS + 1, AT_MS + 2]))
    made = envelope([entry(**user, **extra, **ranks) | beside], kind, at)
    return Told(kind, at, updated_at, version, fields | ranks, encoded(made))


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Told], list[Told]]:
    """Events, with the platform's ids or without, and the same in another order, some repeated."""
    told = draw(st.lists(tellings(), min_size=1, max_size=6))
    if draw(st.booleans()):
        told = [
            one._replace(body=one.body.replace(b'"name":"user"', b'"name":"user","id":%d' % n))
            for n, one in enumerate(told)
        ]
    again = draw(st.lists(st.sampled_from(told), max_size=4))
    return told, draw(st.permutations(told + again))


def recorded(told: list[Told]) -> list[tuple[UserEvent, Told]]:
    """Record events in order of arrival, duplicates dropped, and keep who told them."""
    by_payload = {one.body: one for one in told}
    kept = record(only(one.body) for one in told)
    return [(read_event(event), by_payload[event.payload or b""]) for event in kept]


def in_effective_order(pairs: list[tuple[UserEvent, Told]]) -> list[tuple[UserEvent, Told]]:
    """Sort by the documented rule; only the digest at its end is taken from the key."""

    def rule(pair: tuple[UserEvent, Told]) -> tuple[Any, ...]:
        event, told = pair
        updated_at = -1 if told.updated_at is None else told.updated_at
        version = -1 if told.version is None else told.version
        return told.at, KINDS.index(told.kind), updated_at, version, event.order_key[-16:]

    return sorted(pairs, key=rule)


def reference(told: list[Told]) -> dict[str, Any]:
    """Return a user's fields and lifecycle, field by field, from events in effective order."""
    names = {name for one in told for name in one.fields}
    newest = {n: next(t.fields[n] for t in reversed(told) if n in t.fields) for n in names}
    extra = {n.removeprefix("extra."): newest.pop(n) for n in sorted(names) if n[:6] == "extra."}
    fields = newest | ({"extra": extra} if extra else {})
    living = "blocked" if fields.get("active") is False else "active"
    lifecycle = "deleted" if told[-1].kind == "delete" else living
    return {"fields": fields, "lifecycle": lifecycle}


def described(state: UserState | None) -> dict[str, Any]:
    """Return of a state what the reference says too."""
    assert state
    return {"fields": json.loads(encode_fields(state.fields)), "lifecycle": state.lifecycle}


def comparable(entries: list[HistoryEntry]) -> list[Any]:
    """Return of a history what may not depend on arrival."""
    return [(one.event.order_key, one.event.kind, one.summary, one.changes) for one in entries]


@given(arrivals())
def test_any_order_and_any_repetition_give_the_same_user(
    arrived: tuple[list[Told], list[Told]],
) -> None:
    """However events arrive, state and history come out byte for byte the same."""
    outcomes: list[Any] = []
    for told in arrived:
        state, entries = replay(event for event, _ in recorded(told))
        assert state
        company = (state.company_id, state.lifecycle, state.last.order_key)
        outcomes.append((encode_fields(state.fields), company, comparable(entries)))
    assert outcomes[0] == outcomes[1]


@given(arrivals())
def test_the_user_is_what_the_newest_events_say(arrived: tuple[list[Told], list[Told]]) -> None:
    """At every step of the history, the fold agrees with the field by field reference."""
    pairs = in_effective_order(recorded(arrived[1]))
    for length in range(1, len(pairs) + 1):
        state, _ = replay(event for event, _ in pairs[:length])
        assert described(state) == reference([told for _, told in pairs[:length]])


@given(arrivals())
def test_a_history_tells_every_difference(arrived: tuple[list[Told], list[Told]]) -> None:
    """Each entry's changes name just the fields that differ between the states around it."""
    pairs = in_effective_order(recorded(arrived[1]))
    _, entries = replay(event for event, _ in recorded(arrived[1]))
    assert [one.event for one in entries] == [event for event, _ in pairs]
    steps = [reference([told for _, told in pairs[:n]])["fields"] for n in range(1, len(pairs) + 1)]
    for (before, after), one in zip(pairwise([{}, *steps]), entries, strict=True):
        differing = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        shown = {change.field for change in one.changes}
        # The order of contacts, and none instead of null, are differences that say nothing.
        assert shown <= differing
        assert differing - shown <= {"emails", "phone_numbers"}
        for change in one.changes:
            if change.key is None:
                assert (change.old, change.new) == (
                    before.get(change.field),
                    after.get(change.field),
                )


@given(arrivals())
def test_late_is_what_follows_an_earlier_recorded_one(
    arrived: tuple[list[Told], list[Told]],
) -> None:
    """An entry is late just when an event above it in effective order was recorded before it."""
    events = [event for event, _ in recorded(arrived[1])]
    for one in replay(events)[1]:
        before = (e for e in events if e.position < one.event.position)
        assert one.late == any(e.order_key > one.event.order_key for e in before)
