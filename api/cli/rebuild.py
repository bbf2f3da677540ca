"""The command that rebuilds the read models, or compares them with the log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import output
from api.cli.live import rebuild_shown
from api.cli.parked import repair_users
from api.cli.shared import WATCH, FailedError, Json, StoppedError, new_group, progress, with_runtime
from projections.rebuild.rebuild import Plan, drop_others, prove_all, rebuild, roll_back

if TYPE_CHECKING:
    from api.runtime import Runtime
    from projections.prove.differences import Differences
    from projections.rebuild.rebuild import Rebuilt

app = new_group()
_SHOWN = 20

Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that fold; default: one for each CPU.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Drop an unfinished rebuild; begin anew.")]
VerifyOnly = Annotated[
    bool,
    typer.Option("--verify-only", help="Change nothing; fail if a row differs from the log."),
]
Diff = Annotated[
    bool, typer.Option("--diff", help="Change nothing; show what the present code would change.")
]
Rollback = Annotated[bool, typer.Option("--rollback", help="Flip back to the former generation.")]
Drop = Annotated[
    bool, typer.Option("--drop", help="Remove unfinished and former generations; build nothing.")
]


User = Annotated[
    str | None, typer.Option("--user", metavar="APP/USER", help="Only this user's rows, in place.")
]
Parked = Annotated[bool, typer.Option("--parked", help="Only users who are parked, in place.")]


@app.command("rebuild", rich_help_panel=WATCH)
def rebuild_command(
    workers: Workers = None,
    user: User = None,
    parked: Parked = False,
    verify_only: VerifyOnly = False,
    diff: Diff = False,
    fresh: Fresh = False,
    rollback: Rollback = False,
    drop: Drop = False,
    json: Json = False,
) -> None:
    """Rebuild the read models from the log, prove, flip.

    Requests and appends go on meanwhile. An interrupted rebuild goes on where it stopped.
    """
    if sum((verify_only, diff, fresh, rollback, drop, parked, user is not None)) > 1:
        raise typer.BadParameter("these options exclude each other")
    if user is not None or parked:
        repair_users(user, json=json)
        return
    plan = Plan(workers=workers or os.cpu_count() or 1, fresh=fresh)
    if verify_only or diff:
        _verify(plan, fail=verify_only, json=json)
    elif rollback:
        _roll_back(json=json)
    elif drop:
        _drop(json=json)
    else:
        _rebuild(plan, json=json)


def _rebuild(plan: Plan, *, json: bool) -> None:
    async def work(runtime: Runtime) -> Rebuilt:
        async with rebuild_shown(runtime) as begun:
            return await rebuild(runtime.source, plan, begun)

    try:
        done = with_runtime(work, owner=True)
    except StoppedError:
        raise FailedError("interrupted; `userlog rebuild` goes on where it stopped") from None
    if json:
        output.as_json(done)
        return
    output.plain(f"{done.events} events of {done.users} users folded")
    _show(done.proof, "the former generation had other rows", "equal to the former generation")
    output.plain(f"generation {done.generation} answers now")


def _verify(plan: Plan, *, fail: bool, json: bool) -> None:
    async def work(runtime: Runtime) -> Differences:
        with progress("proving") as update:
            return await prove_all(runtime.source, plan, update)

    found = with_runtime(work, owner=True)
    if json:
        output.as_json(found)
    else:
        right = f"{found.users} users, {found.rows} rows: all equal to the log"
        _show(found, "rows differ from what the present code makes of the log", right)
    if fail and found.differing:
        raise FailedError(f"{found.differing} rows differ from the log")


def _show(found: Differences, wrong: str, right: str) -> None:
    if not found.differing:
        output.plain(right)
        return
    output.plain(f"{found.differing} {wrong}")
    output.differences(found.first[:_SHOWN])
    if found.differing > _SHOWN:
        output.plain(f"and {found.differing - _SHOWN} more; --json names up to 1000")


def _roll_back(*, json: bool) -> None:
    number = with_runtime(lambda runtime: roll_back(runtime.source), owner=True)
    if json:
        output.as_json({"generation": number})
    else:
        output.plain(f"generation {number} answers again")


def _drop(*, json: bool) -> None:
    dropped = with_runtime(lambda runtime: drop_others(runtime.source), owner=True)
    if json:
        output.as_json({"dropped": dropped})
    else:
        output.plain(f"removed: {', '.join(map(str, dropped)) or 'nothing'}")
