"""Commands about users: one of them, or an application's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.cli import output, timeline
from api.cli.output import STALE
from api.cli.shared import (
    USERS,
    Application,
    FailedError,
    Json,
    UserId,
    new_group,
    option,
    time_option,
    with_runtime,
)
from api.web.times import first_day, parse_day, today
from projections.query import stats
from projections.query.users import FOREVER, Page, parse_page_key

if TYPE_CHECKING:
    from datetime import date

    from api.runtime import Runtime
    from eventstore.events import Stream
    from projections.query.stats import Day
    from projections.query.users import PageKey
    from projections.query.views import History, User

app = new_group()
_NO_USER = "no such user, or nothing known of them by that time"
ValidAt = Annotated[
    str | None, typer.Option("--valid-at", help="As it was at this time (RFC 3339).")
]
KnownAt = Annotated[
    str | None, typer.Option("--known-at", help="By what had been recorded at this time.")
]


@app.command("user", rich_help_panel=USERS)
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
        raise FailedError(_NO_USER)
    if json:
        output.as_json(found)
    else:
        output.user(found)


@app.command("history", rich_help_panel=USERS)
def history_command(
    application_id: Application,
    user_id: UserId,
    valid_at: ValidAt = None,
    known_at: KnownAt = None,
    order: Annotated[Literal["asc", "desc"], typer.Option(help="Oldest or newest first.")] = "asc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Entries to show.")] = 100,
    after: Annotated[
        str | None, typer.Option(help="The key `next` of the page before: go on from there.")
    ] = None,
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
        raise FailedError(_NO_USER)
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


@app.command("stats", rich_help_panel=USERS)
def stats_command(
    application_id: Application,
    first: Annotated[
        str | None, typer.Option("--from", help="First day, YYYY-MM-DD; 29 days before the last.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last day; if not given, today in UTC.")
    ] = None,
    json: Json = False,
) -> None:
    """Show an application's numbers by day."""

    async def work(runtime: Runtime) -> list[Day]:
        until = option("--to", parse_day, last) or today()
        days_max = runtime.settings.page_rows_max

        def parse_first(text: str) -> date:
            return first_day(parse_day(text), until, days_max)

        since = option("--from", parse_first, first) or first_day(None, until, days_max)
        partitions = runtime.log.partitions
        return await stats.days_of(runtime.pool, partitions, application_id, since, until)

    found = with_runtime(work)
    if json:
        output.as_json({"application_id": application_id, "days": found})
    elif found:
        output.stats(found)
    else:
        raise FailedError("no such application, or nothing known of it by that day")
