"""A history as a timeline that can be read aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.cli.output import CONTACTS, contact, plain, stale
from api.observe.visible import json_text
from projections.deliveries.values import is_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.fold.history import Change
    from projections.query.views import Entry, History


def show(found: History, title: str) -> None:
    """Print one paragraph for each event."""
    plain(f"history of {title}, times in UTC")
    for entry in found.entries:
        plain("", *_paragraph(entry))
    if found.next:
        plain("", f"more: --after {found.next}")
    stale(found.stale)


def _paragraph(entry: Entry) -> Iterator[str]:
    yield f"{_when(entry.occurred_at)}  {', '.join(entry.summary)}  [{entry.position}]"
    if entry.late:
        yield f"    came late: recorded {_when(entry.recorded_at)}, after events that follow it"
    if entry.stated_at:
        ahead = f"the sender dated it {_when(entry.stated_at)}"
        yield f"    {ahead}, so the time of recording counts"
    for change in entry.changes:
        yield f"    {_sentence(change)}"


def _when(rfc3339: str) -> str:
    return rfc3339.replace("T", " ").removesuffix("Z")


def _sentence(change: Change) -> str:
    if change.key is not None:
        return _contact_sentence(change, f"{CONTACTS[change.field]} {change.key}")
    name = change.field.strip("_").replace("_", " ")
    if change.old is None:
        return f"{name}: {_value(change.new)}"
    if change.new is None:
        return f"{name} cleared, was {_value(change.old)}"
    return f"{name} changed from {_value(change.old)} to {_value(change.new)}"


def _contact_sentence(change: Change, name: str) -> str:
    label = CONTACTS[change.field]
    if change.old is None:
        return f"{label} {contact(change.new)} added"
    if change.new is None:
        return f"{label} {contact(change.old)} removed"
    steps = (_step(what, change.old.get(what), new) for what, new in change.new.items())
    return f"{name}: {', '.join(steps)}"


def _step(what: str, old: object, new: object) -> str:
    what = what.replace("_", " ")
    if new is True:
        return f"now {what}"
    if old is True:
        return f"no longer {what}"
    return f"{what} {_value(new)}, was {_value(old)}"


def _value(value: Any) -> str:  # noqa: ANN401 - any JSON
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value or "empty"
    if isinstance(value, list) or is_object(value):
        return json_text(value)
    return str(value)
