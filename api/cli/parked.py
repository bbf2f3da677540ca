"""Commands about the read models: parked users, and their repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from api.cli import output
from api.cli.shared import WATCH, FailedError, Json, new_group, with_runtime
from projections.project import parked
from projections.project.repair import repair

if TYPE_CHECKING:
    from api.runtime import Runtime
    from eventstore.events import Stream
    from projections.fold.poison import PoisonError
    from projections.project.parked import ParkedUser

app = new_group()


@app.command("parked", rich_help_panel=WATCH)
def parked_command(json: Json = False) -> None:
    """List users with an event that can't be projected.

    When the cause is mended, `userlog rebuild --parked` makes their rows again.
    """

    async def work(runtime: Runtime) -> list[ParkedUser]:
        return await parked.list_all(runtime.pool)

    found = with_runtime(work)
    if json:
        output.as_json(found)
    else:
        output.parked(found)


def repair_users(user: str | None, *, json: bool) -> None:
    """Make the rows of one user again, `APP/USER`, or of all who are parked."""

    async def work(runtime: Runtime) -> tuple[int, list[PoisonError]]:
        streams = await _chosen(runtime, user)
        found = [await repair(runtime.log, stream) for stream in streams]
        return len(found), [error for error in found if error]

    users, left = with_runtime(work)
    if json:
        about = [{"position": str(error.position), "reason": error.reason} for error in left]
        output.as_json({"repaired": users - len(left), "parked": about})
    elif users > len(left):
        output.plain(f"repaired: {users - len(left)}")
    elif not users:
        output.plain("no user is parked")
    if left:
        raise FailedError("; ".join(map(str, left)))


async def _chosen(runtime: Runtime, user: str | None) -> list[Stream]:
    log = runtime.log
    if user is None:
        found = await parked.list_all(runtime.pool)
        return [log.stream(one.application_id, one.user_id) for one in found]
    application_id, slash, user_id = user.partition("/")
    if not (application_id and slash and user_id):
        raise typer.BadParameter("like APP/USER, the two ids", param_hint="--user")
    stream = log.stream(application_id, user_id)
    if not await log.knows(stream):
        raise FailedError("no such user")
    return [stream]
