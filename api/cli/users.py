"""Commands about one user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.cli import output, timeline
from api.cli.command import (
    Application,
    FailedError,
    Json,
    UserId,
    Yes,
    confirm,
    new_group,
    time_option,
    with_runtime,
)
from api.cli.output import STALE
from projections.query.formats import rfc3339
from projections.query.users import FOREVER, Page, parse_page_key

if TYPE_CHECKING:
    from api.runtime import Runtime
    from eventstore.events import Stream
    from eventstore.log import Erasure
    from projections.query.users import PageKey
    from projections.query.views import History, User

app = new_group()
_NOBODY = "no such user, or nothing known of them by that time"
ValidAt = Annotated[
    str | None, typer.Option("--valid-at", help="As it was at this time (RFC 3339).")
]
KnownAt = Annotated[
    str | None, typer.Option("--known-at", help="By what had been recorded at this time.")
]


@app.command("user")
def user_command(
    application_id: Application,
    user_id: UserId,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    json: Json = False,
) -> None:
    """Show a user, now or at a moment."""
    valid, known = time_option(valid_at, "--valid-at"), time_option(known_at, "--known-at")

    async def work(runtime: Runtime) -> User | None:
        stream = runtime.log.stream(application_id, user_id)
        if await runtime.log.is_erased(stream):
            raise FailedError("the data of this user was erased")
        found = await runtime.read_model.user(stream, valid, known)
        if found is None and valid is None and known is None:
            await _fail_if_parked(runtime, stream)
        return found

    found = with_runtime(work)
    if found is None:
        raise FailedError(_NOBODY)
    if json:
        output.as_json(found)
    else:
        output.user(found)


@app.command("history")
def history_command(
    application_id: Application,
    user_id: UserId,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    order: Annotated[Literal["asc", "desc"], typer.Option(help="Oldest or newest first.")] = "asc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Entries to show.")] = 100,
    after: Annotated[str | None, typer.Option(help="Go on after this mark.")] = None,
    json: Json = False,
) -> None:
    """Show what happened to a user, event by event."""
    valid, known = time_option(valid_at, "--valid-at"), time_option(known_at, "--known-at")
    page = Page(order, limit, _page_key(after), valid or FOREVER)

    async def work(runtime: Runtime) -> History:
        stream = runtime.log.stream(application_id, user_id)
        if await runtime.log.is_erased(stream):
            raise FailedError("the data of this user was erased")
        found = await runtime.read_model.history(stream, known, page)
        if not found.entries and known is None:
            await _fail_if_parked(runtime, stream)
        return found

    found = with_runtime(work)
    if not found.entries:
        raise FailedError(_NOBODY)
    if json:
        output.as_json(found)
    else:
        timeline.show(found, title=f"user {user_id} of {application_id}")


async def _fail_if_parked(runtime: Runtime, stream: Stream) -> None:
    if found := await runtime.read_model.stale(stream):
        raise FailedError(f"event {found.position} of this user: {STALE.format(found.reason)}")


def _page_key(text: str | None) -> PageKey | None:
    try:
        return None if text is None else parse_page_key(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--after") from None


@app.command("erase")
def erase_command(
    application_id: Application, user_id: UserId, yes: Yes = False, json: Json = False
) -> None:
    """Erase a user's personal data for good.

    Destroys their key and their rows in every read model; their events stay, sealed for ever.
    """
    confirm(f"Erase user {user_id} of {application_id} for good?", yes=yes)

    async def work(runtime: Runtime) -> Erasure:
        return await runtime.log.erase(runtime.log.stream(application_id, user_id))

    found = with_runtime(work)
    if not found.known or found.erased_at is None:
        raise FailedError("no such user")
    if json:
        position = str(found.position) if found.position else None
        output.as_json({"erased_at": rfc3339(found.erased_at), "position": position})
    elif found.position:
        output.plain(f"erased: key and read models are gone, event {found.position} records it")
    else:
        output.plain(f"nothing to do: erased already at {rfc3339(found.erased_at)}")
