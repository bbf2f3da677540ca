"""What may be told of users, in all the ways the platform tells it, and what must come of it.

The reference knows nothing of the fold: it looks, for each field by itself, for the newest event
that carries it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

from tests.support.deliveries import APP, SAMPLE_USER, T0_MS, documented, encoded, envelope
from tests.support.events import KEY, only

if TYPE_CHECKING:
    from eventstore.sealing.keys import DataKey

KINDS = ("create", "update", "delete")
PLAIN: dict[str, tuple[str, list[Any]]] = {
    "first_name": ("firstName", ["A", "B", "", None]),
    "gender": ("gender", ["male", "female", None]),
    "active": ("active", [True, False, None]),
    "profile_pic_url": ("profilePicUrl", ["/a", "/b"]),
}
FLAGS = {"verified": st.booleans(), "primary": st.booleans()}


class Told(NamedTuple):
    """What an event says of a user, without saying of whom; `fields` is what must be read."""

    kind: str
    at: int
    updated_at: int | None
    version: int | None
    fields: dict[str, Any]
    entry: dict[str, Any]
    documented: bool
    event_id: int | None = None

    def body(self, user: str = SAMPLE_USER, application: str = APP) -> bytes:
        """Write the delivery, in the delivered envelope or the documented one."""
        payload = [self.entry | {"user": {"_id": user, **self.entry["user"]}}]
        about = (payload, self.kind, self.at - T0_MS)
        if not self.documented:
            return encoded(envelope(*about, application, id=self.event_id))
        return encoded(documented(*about, application, id=self.event_id))

    def rank(
        self, user: str = SAMPLE_USER, application: str = APP, key: DataKey = KEY
    ) -> tuple[Any, ...]:
        """Return the place in effective order, by the documented rule, with the user's key."""
        identity = key.identity(only(self.body(user, application)).identity)
        updated_at = -1 if self.updated_at is None else self.updated_at
        version = -1 if self.version is None else self.version
        return self.at, KINDS.index(self.kind), updated_at, version, identity[-8:]

    @property
    def identity(self) -> object:
        """What makes two deliveries the same event of a user."""
        return self.event_id or (self.kind, self.at, _json(self.entry, sort_keys=True))


def _json(value: object, *, sort_keys: bool = False) -> bytes:
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode()


def _contacts(draw: st.DrawFn, value: str) -> Any:
    values = {"email": ["a@b.c", "d@e.f"], "phone": ["1", "2"]}[value]
    some = draw(st.lists(st.sampled_from(values), unique=True))
    contacts = [{value: one, **draw(st.fixed_dictionaries({}, optional=FLAGS))} for one in some]
    return draw(st.sampled_from([None, contacts, contacts, contacts]))


@st.composite
def tellings(draw: st.DrawFn, moments: int = 3) -> Told:
    """An event with some fields or all, written in one case or the other or both."""
    whole = draw(st.booleans())
    fields: dict[str, Any] = {}
    user: dict[str, Any] = {}
    for name, (camel, values) in PLAIN.items():
        if whole or draw(st.booleans()):
            fields[name] = draw(st.sampled_from(values))
            twins = [{name: fields[name]}, {camel: fields[name]}, {camel: "no", name: fields[name]}]
            user |= draw(st.sampled_from(twins if camel != name else twins[:1]))
    for name, camel, value in (
        ("emails", "emails", "email"),
        ("phone_numbers", "phoneNumbers", "phone"),
    ):
        if whole or draw(st.booleans()):
            fields[name] = _contacts(draw, value)
            user[draw(st.sampled_from([name, camel]))] = fields[name]
    extra = draw(st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers(0, 2)))
    fields |= {f"extra.{name}": value for name, value in extra.items()}
    beside: dict[str, Any] = draw(
        st.sampled_from([{}, {}, {"socialAccounts": []}, {"socialAccounts": [1]}])
    )
    if beside:
        fields["social_accounts"] = beside["socialAccounts"]
    updated_at = draw(st.sampled_from([None, T0_MS - 1, T0_MS]))
    version = draw(st.sampled_from([None, 0, 1]))
    ranks = {"updated_at": updated_at, "__v": version}
    ranks = {name: value for name, value in ranks.items() if value is not None}
    kind, at = draw(st.sampled_from(KINDS)), T0_MS + draw(st.integers(0, moments - 1))
    entry = {"user": {**user, **extra, **ranks}, **beside}
    return Told(kind, at, updated_at, version, fields | ranks, entry, draw(st.booleans()))


def identified(told: list[Told]) -> list[Told]:
    """Give each event an id of the platform's."""
    return [one._replace(event_id=n) for n, one in enumerate(told, start=1)]


def in_effective_order(
    told: list[Told], user: str = SAMPLE_USER, application: str = APP, key: DataKey = KEY
) -> list[Told]:
    """Sort, and leave out what is there twice."""
    firsts = {one.identity: one for one in reversed(told)}
    return sorted(firsts.values(), key=lambda one: one.rank(user, application, key))


def has_ties(told: list[Told]) -> bool:
    """Say whether the user's key alone decides in which order some events are."""
    ranks = [one.rank()[:-1] for one in in_effective_order(told)]
    return len(set(ranks)) < len(ranks)


def reference(told: list[Told]) -> dict[str, Any]:
    """Return a user's fields and lifecycle, field by field, from events in effective order."""
    names = {name for one in told for name in one.fields}
    newest = {n: next(t.fields[n] for t in reversed(told) if n in t.fields) for n in names}
    extra = {n.removeprefix("extra."): newest.pop(n) for n in sorted(names) if n[:6] == "extra."}
    fields = newest | ({"extra": extra} if extra else {})
    living = "blocked" if fields.get("active") is False else "active"
    lifecycle = "deleted" if told[-1].kind == "delete" else living
    return {"fields": fields, "lifecycle": lifecycle}
