"""Commands that write personal data into a file: all users, or all that is held about one."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from api.cli import files as line_files
from api.cli import output
from api.cli.shared import (
    USERS,
    Application,
    FailedError,
    UserId,
    check_reason,
    new_group,
    operator,
    progress,
    with_runtime,
)
from eventstore.audit import Act
from projections.deliveries.values import is_list, is_object
from projections.fold.events import EXTRA, KNOWN_FIELDS
from projections.query import all_users
from projections.query.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from api.runtime import Runtime
    from projections.query.views import User

app = new_group()
users = new_group()
_ABOUT = ("application_id", "user_id", "company_id", "lifecycle")
_AS_OF = ("position", "event_type", "occurred_at", "recorded_at")
# The first that is primary, or the first.
_CONTACTS = {"email": ("emails", "email"), "phone": ("phone_numbers", "phone")}
_DEFAULT = (
    *("application_id", "user_id", "lifecycle", "first_name", "last_name", "username"),
    *("email", "phone", "occurred_at"),
)
_NAMES = (*_ABOUT, *_CONTACTS, *KNOWN_FIELDS, "social_accounts", *_AS_OF)
# What a spreadsheet would take for a formula, some also in full width, and is no number or phone.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20](?![\\d\\s().-]*$)")
Format = Literal["csv", "jsonl"]
Out = Annotated[Path | None, typer.Option(help="A file, .gz and .zst compressed.")]


@users.command("export")
def export_command(
    application: Annotated[
        list[str] | None,
        typer.Option("--application", help="Only of this one; can be given repeatedly."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help=f"Comma-separated; not given: {','.join(_DEFAULT)}.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="One line a user.")] = "csv",
    out: Out = None,
) -> None:
    """Write all users as they are now, one line each.

    For jsonl without --columns each line is the user as `GET` answers it.
    """
    chosen = _columns(columns)
    line = _csv_line if form == "csv" else _json_line

    async def work(runtime: Runtime) -> int:
        applications = application or []
        names = ",".join(chosen or ("all",))
        about: dict[str, str | int] = {"applications": ",".join(applications), "columns": names}
        await runtime.log.audit.write(Act("users export", operator(), about=about))
        total = await all_users.count(runtime.pool, applications)
        written = 0
        with line_files.writing(out) as write, progress("exporting") as update:
            if form == "csv":
                write(_row(chosen or _DEFAULT))
            async for user in all_users.every_user(runtime.log, runtime.pool, applications):
                write(line(user, chosen))
                written += 1
                update(written, max(written, total))
        return written

    output.error(f"{with_runtime(work)} users written")


def _columns(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in _NAMES and not name.startswith(f"{EXTRA}."):
            problem = f"no column {name!r}; there are {', '.join(_NAMES)}, and {EXTRA}.NAME"
            raise typer.BadParameter(problem, param_hint="--columns")
    return names


def _json_line(user: User, columns: Sequence[str]) -> bytes:
    if not columns:
        return msgspec.json.encode(user)
    values = _values(user)
    return msgspec.json.encode({name: values(name) for name in columns})


def _csv_line(user: User, columns: Sequence[str]) -> bytes:
    values = _values(user)
    return _row([_cell(values(name)) for name in columns or _DEFAULT])


def _values(user: User) -> Callable[[str], Any]:
    state: dict[str, Any] = msgspec.json.decode(user.state)
    extra = state.get(EXTRA, {})

    def value(name: str) -> Any:  # noqa: ANN401 - as the platform has it
        if name in _ABOUT:
            return getattr(user, name)
        if name in _AS_OF:
            return getattr(user.as_of, name)
        if name in _CONTACTS:
            return _contact(state, *_CONTACTS[name])
        if name.startswith(f"{EXTRA}."):
            return extra.get(name.removeprefix(f"{EXTRA}."))
        return state.get(name)

    return value


def _contact(state: dict[str, Any], field: str, member: str) -> object:
    found = state.get(field)
    there = [one for one in found if is_object(one)] if is_list(found) else []
    there.sort(key=lambda one: one.get("primary") is not True)
    return there[0].get(member) if there else None


def _cell(value: object) -> str:
    """Write a value as text; an apostrophe keeps a spreadsheet from running it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"'{text}" if _FORMULA.match(text) else text


def _row(cells: Sequence[str]) -> bytes:
    made = io.StringIO()
    # What has a character of the line's ending in it is quoted, before Python 3.13 nothing else is.
    csv.writer(made, lineterminator="\r\n").writerow(cells)
    return made.getvalue().removesuffix("\r\n").encode()


@app.command("subject", rich_help_panel=USERS)
def subject_command(
    application_id: Application,
    user_id: UserId,
    out: Out = None,
    reason: Annotated[
        str, typer.Option(help="Why it is asked for; kept in the audit, sealed.")
    ] = "",
) -> None:
    """Write everything that is held about a person, as one JSON document.

    Their state, history, deliveries, what is in quarantine about them, and who did what about
    them, this request included.
    """
    check_reason(reason)

    async def work(runtime: Runtime) -> int:
        log = runtime.log
        stream = log.stream(application_id, user_id)
        found = Subject(log, runtime.quarantine, runtime.read_model, stream)
        if not await found.exists():
            raise FailedError("no such user")
        with line_files.writing_document(out) as write:
            await log.audit.write(Act("subject", operator(), reason), stream)
            async for piece in found.document():
                write(piece)
        return found.unopened

    unopened = with_runtime(work)
    output.error("written")
    if unopened:
        raise FailedError(
            f"{unopened} deliveries or entries about them do not open, and are there without"
            " content: `userlog verify` says why"
        )
