"""In whatever order a user's events arrive, and however often, they make the same user."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from projections.fold.events import UserEvent, read_event
from projections.fold.history import HistoryEntry, replay
from projections.fold.state import Recall, UserState, encode_fields, names_by
from tests.support.deliveries import T0
from tests.support.events import only, record
from tests.support.lives import Told, identified, in_effective_order, reference, tellings


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Told], list[Told]]:
    """Events, with the platform's ids or without, and the same in another order, some repeated."""
    told = draw(st.lists(tellings(), min_size=1, max_size=6))
    if draw(st.booleans()):
        told = identified(told)
    again = draw(st.lists(st.sampled_from(told), max_size=4))
    return told, draw(st.permutations(told + again))


def recorded(told: list[Told]) -> list[tuple[UserEvent, Told]]:
    """Record events in order of arrival, duplicates dropped, and keep who told them."""
    by_payload = {one.body(): one for one in told}
    kept = record(only(one.body()) for one in told)
    return [(read_event(event), by_payload[event.payload or b""]) for event in kept]


def sorted_pairs(told: list[Told]) -> list[tuple[UserEvent, Told]]:
    """Return each event that counts, read, in effective order, with who told it."""
    events = {told.identity: event for event, told in recorded(told)}
    return [(events[one.identity], one) for one in in_effective_order(told)]


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
    pairs = sorted_pairs(arrived[1])
    for length in range(1, len(pairs) + 1):
        state, _ = replay(event for event, _ in pairs[:length])
        assert described(state) == reference([told for _, told in pairs[:length]])


def flat(told: list[Told]) -> dict[str, Any]:
    """Return a user's fields by the names that changes give them."""
    fields = dict(reference(told)["fields"])
    extra = fields.pop("extra", {})
    return fields | {f"extra.{name}": value for name, value in extra.items()}


@given(arrivals())
def test_a_history_tells_every_difference(arrived: tuple[list[Told], list[Told]]) -> None:
    """Each entry's changes name just the fields that differ between the states around it."""
    pairs = sorted_pairs(arrived[1])
    _, entries = replay(event for event, _ in recorded(arrived[1]))
    assert [one.event for one in entries] == [event for event, _ in pairs]
    steps = [flat([told for _, told in pairs[:n]]) for n in range(1, len(pairs) + 1)]
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


@given(arrivals(), st.data())
def test_backwards_is_forwards(arrived: tuple[list[Told], list[Told]], data: st.DataObject) -> None:
    """Put together from the newest event back, a user at any moment is what the fold makes."""
    events = sorted((event for event, _ in recorded(arrived[1])), key=lambda e: e.order_key)
    state, _ = replay(events)
    assert state
    until = T0 + timedelta(milliseconds=data.draw(st.integers(-1, 4)))
    known = data.draw(st.integers(0, len(events)))
    seen = [e for e in events if e.occurred_at <= until and e.position.number <= known]
    for wanted in (None, names_by(until, state.fields, state.company_id, state.since)):
        recall = Recall(wanted)
        for event in reversed(seen):
            recall.add(event)
            if recall.complete:
                break
        forwards, _ = replay(seen)
        assert (recall.state is None) == (forwards is None)
        if recall.state and forwards:
            assert encode_fields(recall.state.fields) == encode_fields(forwards.fields)
            assert msgspec.structs.replace(recall.state, since=forwards.since) == forwards
