"""Commands that erase users, and say who was erased."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from api.cli import files as line_files
from api.cli import output
from api.cli.shared import (
    LOG,
    FailedError,
    Json,
    UsageError,
    Yes,
    check_reason,
    confirm,
    new_group,
    operator,
    progress,
    read_settings,
    run,
    secrets_there,
    with_runtime,
)
from api.runtime import database_urls
from eventstore.postgres import vacuum
from eventstore.postgres.pool import owner_connection
from eventstore.quarantine import UNATTRIBUTED_MAX
from projections.query.formats import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.runtime import Runtime
    from eventstore.audit import Erased
    from eventstore.log import Erasure

app = new_group()
_AT_ONCE = 500
# What some editors write in front of a file.
_MARK = "\ufeff".encode()
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit, sealed.")]
OptionalId = Annotated[str | None, typer.Argument(help="The sales channel's application id.")]


class Listed(msgspec.Struct, frozen=True):
    """A line of a list of erasures."""

    position: str
    stream_id: uuid.UUID
    erased_at: str = ""


class Applied(msgspec.Struct):
    """What applying such a list did, in users."""

    erased: int = 0
    already_erased: int = 0
    unknown: int = 0


@app.command("erase", rich_help_panel=LOG)
def erase_command(
    application_id: OptionalId = None,
    user_id: Annotated[str | None, typer.Argument(help="The user's id.")] = None,
    reason: Reason = "",
    list_file: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="LIST", help="Erase again whom this list of `erasures` has."
        ),
    ] = None,
    scrub: Annotated[
        bool,
        typer.Option("--scrub", help="Rewrite the files in which erased keys may still stand."),
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Erase a user's personal data for good.

    Destroys their key and their rows in every read model and in quarantine; their events stay,
    sealed for ever. With --from: everybody whom a list has, after a restore to before they were
    erased. With --scrub, afterwards and now and then: what PostgreSQL has left of destroyed keys in
    its files goes too; it needs the owner's login, and appends wait meanwhile.
    """
    check_reason(reason)
    named = application_id is not None and user_id is not None
    if (application_id is None) != (user_id is None) or named + bool(list_file) + scrub != 1:
        raise UsageError("name one of: APPLICATION_ID and USER_ID, --from LIST, --scrub")
    if scrub:
        _scrub(yes=yes, json=json)
    elif list_file:
        _erase_listed(list_file, reason, yes=yes, json=json)
    else:
        assert application_id is not None, "as checked"  # noqa: S101
        assert user_id is not None, "as checked"  # noqa: S101
        _erase(application_id, user_id, reason, yes=yes, json=json)


def _erase(application_id: str, user_id: str, reason: str, *, yes: bool, json: bool) -> None:
    confirm(f"Erase user {user_id} of {application_id} for good?", yes=yes)
    if not yes and not reason and sys.stdin.isatty():
        reason = typer.prompt("Why (kept in the audit)", default="", show_default=False)
        check_reason(reason)

    async def work(runtime: Runtime) -> tuple[Erasure, list[uuid.UUID]]:
        stream = runtime.log.stream(application_id, user_id)
        found = await runtime.log.erase(stream, operator(), reason)
        return found, await runtime.quarantine.unattributed(UNATTRIBUTED_MAX)

    found, unattributed = with_runtime(work)
    if not found.known or found.erased_at is None:
        raise FailedError("no such user")
    if json:
        output.as_json(
            {
                "erased_at": rfc3339(found.erased_at),
                "position": str(found.position) if found.position else None,
                "quarantined": found.quarantined,
                "unattributed": unattributed,
            }
        )
        return
    if found.position:
        output.plain(f"erased: key and read models are gone, event {found.position} records it")
    else:
        output.plain(f"nothing to do: erased already at {rfc3339(found.erased_at)}")
    if found.quarantined:
        output.plain(f"removed from quarantine: {found.quarantined}")
    if unattributed:
        output.plain(
            f"{len(unattributed)} in quarantine may be about anybody, since their users' ids can't"
            " be read; look at each (`userlog quarantine show ID`), and purge it if need be:"
        )
        output.plain(*(f"  {one}" for one in unattributed))


def _erase_listed(name: str, reason: str, *, yes: bool, json: bool) -> None:
    line_files.check([name])
    with progress("reading the list") as update:
        lines = enumerate(line_files.lines(name, update), 1)
        read = [_listed(n, text) for n, line in lines if (text := line.removeprefix(_MARK).strip())]
    listed = list({one.stream_id: one for one in read}.values())
    confirm(f"Erase for good whom this list has ({len(listed)} users)?", yes=yes)

    async def work(runtime: Runtime) -> Applied:
        done = Applied()
        with progress("erasing") as update:
            for start in range(0, len(listed), _AT_ONCE):
                await _apply(runtime, listed[start : start + _AT_ONCE], reason, done)
                update(min(start + _AT_ONCE, len(listed)), len(listed))
        return done

    done = with_runtime(work)
    if json:
        output.as_json(done)
    else:
        output.plain(
            f"erased: {done.erased}, erased already: {done.already_erased},"
            f" not in this log: {done.unknown}"
        )
    if done.unknown:
        raise FailedError(
            f"{done.unknown} users of the list are not in this log; if the platform sends their"
            " events again, run this again"
        )


def _listed(number: int, line: bytes) -> Listed:
    try:
        return msgspec.json.decode(line, type=Listed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FailedError(
            f"line {number} is not of a list of `userlog erasures --out`; no user was erased"
        ) from None


async def _apply(runtime: Runtime, listed: list[Listed], reason: str, done: Applied) -> None:
    wanted = {one.stream_id: one for one in listed}
    found = await runtime.log.find(list(wanted))
    done.unknown += len(wanted) - len(found)
    for stream in found:
        before = f"erased before at {wanted[stream.stream_id].position}"
        why = f"{reason}; {before}" if reason else before
        erasure = await runtime.log.erase(stream, operator(), why)
        if erasure.position:
            done.erased += 1
        else:
            done.already_erased += 1


def _scrub(*, yes: bool, json: bool) -> None:
    confirm("Rewrite the tables of keys? Appends wait meanwhile.", yes=yes)
    settings = read_settings()
    secrets_there(settings)

    async def work(doing: Callable[[str], None]) -> list[str]:
        async with (
            database_urls(settings) as urls,
            owner_connection(urls.owner, settings.database_timeout_s) as connection,
        ):
            return await vacuum.rewrite(connection, doing)

    def doing(text: str) -> None:
        if not json:
            output.error(text)

    undone = run(work(doing))
    if json:
        output.as_json({"undone": undone})
    if undone:
        raise FailedError(f"not done: {'; '.join(undone)}. docs/privacy.md says what that leaves")
    if not json:
        output.plain("scrubbed: no table file holds the key of an erased user")


@app.command("erasures", rich_help_panel=LOG)
def erasures_command(
    out: Annotated[
        Path | None, typer.Option(help="Write a list to this file, for `erase --from`.")
    ] = None,
    json: Json = False,
) -> None:
    """List who was erased, when, by whom and why.

    Keep the list of --out where the database's backups are not: after a restore to an earlier
    moment, `userlog erase --from` erases again whom it has.
    """

    async def work(runtime: Runtime) -> list[Erased]:
        partitions = range(runtime.log.partitions)
        return [one for n in partitions for one in await runtime.log.audit.erasures(n)]

    found = sorted(with_runtime(work), key=lambda one: (one.erased_at, one.position))
    if out is not None:
        with line_files.writing(out) as write:
            for one in found:
                at = rfc3339(one.erased_at)
                write(msgspec.json.encode(Listed(str(one.position), one.stream_id, at)))
        output.error(f"{len(found)} erasures written")
    elif json:
        output.as_json([_as_json(one) for one in found])
    else:
        columns = ("position", "application", "user", "erased at", "by", "reason")
        output.table(columns, map(_row, found))


def _row(one: Erased) -> tuple[str, ...]:
    by, reason = (str(one.act.actor), one.act.reason) if one.act else ("", "")
    at = rfc3339(one.erased_at)
    return str(one.position), one.application_id, one.user_id, at, by, reason


def _as_json(one: Erased) -> dict[str, Any]:
    about = msgspec.structs.asdict(one)
    del about["act"]
    about |= {"position": str(one.position), "erased_at": rfc3339(one.erased_at)}
    return about | {
        "actor": one.act.actor if one.act else None,
        "reason": one.act.reason if one.act else None,
    }
