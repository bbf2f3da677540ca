"""What the commands print: tables for people, JSON for machines.

Values come from strangers. Whatever is printed passes `visible`, and nothing in it is markup. Line
breaks between two texts are ours; those within a text are its value's, and written out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec
from rich.console import Console, Group
from rich.segment import Segment

from api.cli import streams
from api.cli.tables import Fitted, Lines
from api.observe.visible import behind, json_text, visible
from projections.deliveries.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from typing import IO

    from rich.console import ConsoleOptions, RenderableType
    from rich.text import Text

    from api.doctor.finding import Finding
    from api.endpoints.status import Status
    from api.web.tokens import Token
    from api.webhook.send import Sent
    from eventstore.quarantine import Quarantined
    from projections.project.parked import ParkedUser
    from projections.prove.differences import Difference
    from projections.query.stats import Day
    from projections.query.views import Stale, User
    from projections.rebuild.progress import Progress


class _Console(Console):
    """A console that shows what is printed, whatever is in it, without taking any of it as markup.

    It leaves to the program what happens when its reader has gone.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    @property
    def file(self) -> IO[str]:
        """Write past the guard of the stream, which would show the colours as well."""
        return behind(cast("TextIO", super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as in Console
        """Make a text of one line, before it is laid out."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Lay out; the only line breaks and orders to the terminal are those of the layout."""
        for text, style, control in super().render(renderable, options):
            shown = text if control else visible(text, lines=True)
            yield Segment(shown, style, control)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


CONTACTS = {"emails": "e-mail", "phone_numbers": "phone"}
_COUNTS = {
    "accepted": "accepted",
    "duplicates": "duplicate",
    "ignored": "ignored",
    "quarantined": "quarantined",
}
STALE = "it can't be read ({}); see `userlog parked`"
console = _Console()
errors = _Console(stderr=True)


def as_json(value: object) -> None:
    """Print one JSON document, in UTF-8 whatever the terminal's encoding."""
    streams.write_bytes(f"{json_text(value)}\n".encode())
    sys.stdout.flush()


def plain(*lines: str) -> None:
    """Print lines as they are, however long."""
    console.print(*lines, sep="\n", soft_wrap=True)


def error(line: str) -> None:
    """Print a line on standard error."""
    errors.print(line, soft_wrap=True)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str = "") -> None:
    """Print a table."""
    console.print(Fitted(columns, rows, title))


def user(found: User) -> None:
    """Print a user as a table."""
    state: dict[str, Any] = msgspec.json.decode(found.state)
    rows: list[tuple[str, object]] = [("lifecycle", found.lifecycle)]
    rows += [(name, _contacts(name, value)) for name, value in state.items()]
    about = found.as_of
    table(("field", "value"), rows, title=f"user {found.user_id} of {found.application_id}")
    plain(f"as of {about.position}: {about.event_type}, occurred {about.occurred_at},")
    plain(f"recorded {about.recorded_at}")
    stale(found.stale)


def stale(found: Stale | None) -> None:
    """Print what an answer lacks."""
    if found:
        plain(f"event {found.position} and what follows is not in it: {STALE.format(found.reason)}")


def _contacts(name: str, value: Any) -> object:  # noqa: ANN401 - any JSON
    if name not in CONTACTS or not is_list(value):
        return value
    return Lines(map(contact, value)) or "none"


def contact(item: Any) -> str:  # noqa: ANN401 - any JSON
    """Write a phone or an e-mail as people do, and its flags."""
    if not is_object(item):
        return json_text(item)
    number, code = item.get("phone"), item.get("country_code")
    if number is not None and code is not None:
        number = f"+{code} {number}"
    flags = [flag for flag in ("primary", "verified") if item.get(flag)]
    if item.get("active") is False:
        flags.append("inactive")
    shown = f" ({', '.join(flags)})" if flags else ""
    return f"{item.get('email') or number}{shown}"


def settings(found: list[dict[str, str]]) -> None:
    """Print the settings, and where each comes from."""
    rows = [
        (
            *(one["setting"], f"{one['value']} ({one['origin']})"),
            f"{one['meaning']}; such as {one['example']}",
        )
        for one in found
    ]
    table(("setting", "value (origin)", "meaning"), rows)


def quarantine(found: list[Quarantined]) -> None:
    """Print what is in quarantine."""
    columns = ("id", "reason", "detail", "last seen", "times")
    rows = [
        (str(one.id), one.reason, one.detail, f"{one.last_seen:%Y-%m-%d %H:%M:%S}Z", one.times_seen)
        for one in found
    ]
    table(columns, rows, title=f"in quarantine: {len(found)}")


def tokens(found: list[Token]) -> None:
    """Print what is known of tokens."""
    columns = ("id", "name", "scopes", "applications", "made", "last used", "state")
    rows = [
        (
            *(one.id, one.name, ", ".join(one.scopes), ", ".join(one.applications or ["all"])),
            *(_day(one.created_at), _day(one.last_used_at)),
            "revoked" if one.revoked_at else "good",
        )
        for one in found
    ]
    table(columns, rows)


def _day(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z" if time else "never"


def parked(found: list[ParkedUser]) -> None:
    """Print the parked users."""
    columns = ("position", "reason", "since", "application", "user")
    rows = [
        (f.position, f.reason, f"{f.since:%Y-%m-%d %H:%M:%S}Z", f.application_id, f.user_id)
        for f in found
    ]
    table(columns, rows, title=f"parked: {len(found)}")


def findings(found: list[Finding]) -> None:
    """Print what was looked at, and below it what to do."""
    rows = [
        (
            one.state.value,
            one.about,
            Lines((one.found, *([f"to do: {one.todo}"] if one.todo else []))),
        )
        for one in found
    ]
    table(("state", "what", "found"), rows)


def stats(found: list[Day]) -> None:
    """Print an application's days."""
    table(
        ("day", "events", "created", "deleted", "blocked", "reactivated", "active"),
        [
            (str(d.date), d.events, d.created, d.deleted, d.blocked, d.reactivated, d.active)
            for d in found
        ],
    )


def sent(found: list[Sent]) -> None:
    """Print the answers to deliveries."""
    table(
        ("delivery", "status", "events", "positions"),
        [
            (one.name, str(one.status or "-"), _events(one), ", ".join(_positions(one)))
            for one in found
        ],
    )


def _events(one: Sent) -> str:
    counts = {word: one.answer.get(name) for name, word in _COUNTS.items()}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return said or str(one.answer.get("title", "none"))


def _positions(one: Sent) -> list[str]:
    return [str(position) for position in one.answer.get("positions") or ()]


def status(found: Status) -> None:
    """Print how far the log and the read models have come."""
    console.print(status_view(found))


def status_view(found: Status) -> Group:
    """Show how far the log, the read models and a rebuild have come, as tables."""
    heads = [(head.position, head.recorded_at or "never") for head in found.heads]
    rows = [
        (
            *(str(p.partition), str(p.generation), "answers" if p.active else p.state),
            *(f"{p.position} of {p.head}", f"{p.lag_positions} events, {p.lag_s:.1f} s"),
        )
        for p in found.projections
    ]
    waiting = found.parked
    lines = [
        f"parked: {waiting}{'; see `userlog parked`' if waiting else ''}",
        f"in quarantine: {found.quarantined}",
    ]
    if found.rebuild:
        lines.insert(0, rebuild_line(found.rebuild))
    return Group(
        Fitted(("head", "last recorded"), heads, title="log"),
        Fitted(("partition", "generation", "state", "position", "lag"), rows, title="read models"),
        *lines,
    )


def status_line(found: Status) -> str:
    """Write in one line what changes while one watches."""
    heads = ", ".join(head.position for head in found.heads)
    waiting = sum(p.lag_positions for p in found.projections if p.active)
    line = f"head {heads}; {waiting} events to project; {found.quarantined} in quarantine"
    return f"{line}; {rebuild_line(found.rebuild)}" if found.rebuild else line


def rebuild_line(found: Progress) -> str:
    """Write in one line how far a rebuild is."""
    parts = [
        f"generation {found.generation}: {found.phase}",
        f"{found.shards_done} of {found.shards} shards",
        f"{found.events} of {found.events_total} events",
        f"{found.users} users",
    ]
    if found.events_per_s is not None:
        parts.append(f"{found.events_per_s} events/s")
    if found.eta_s is not None:
        parts.append(f"{found.eta_s:.0f} s left")
    return ", ".join(parts)


def differences(found: Iterable[Difference]) -> None:
    """Print where rows differ: names, never values."""
    rows = [
        (f"{d.application_id}/{d.user_id}", d.table, d.at or "", d.what, ", ".join(d.fields))
        for d in found
    ]
    table(("user", "table", "row", "is", "fields"), rows)
