"""Commands about deliveries that could not be read."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from api.cli import output
from api.cli.shared import FailedError, Json, Yes, confirm, new_group, operator, with_runtime
from eventstore.audit import Act

if TYPE_CHECKING:
    from api.runtime import Runtime
    from eventstore.quarantine import Quarantined

app = new_group()
Id = Annotated[uuid.UUID, typer.Argument(metavar="ID", help="As listed.")]
SomeIds = Annotated[list[uuid.UUID] | None, typer.Argument(metavar="[ID]…", help="As listed.")]
Reason = Annotated[str | None, typer.Option(help="All with this reason.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many to show.")] = 50,
    json: Json = False,
) -> None:
    """List the most recently seen, newest first."""

    async def work(runtime: Runtime) -> list[Quarantined]:
        return await runtime.quarantine.newest(limit)

    found = with_runtime(work)
    if json:
        output.as_json(found)
    else:
        output.quarantine(found)


@app.command("show")
def show_command(key: Id, json: Json = False) -> None:
    """Show one with its body, which may hold personal data."""

    async def work(runtime: Runtime) -> tuple[Quarantined, bytes] | None:
        return await runtime.quarantine.show(key)

    found = with_runtime(work)
    if found is None:
        raise FailedError(f"nothing in quarantine has the id {key}")
    about, body = found
    text = body.decode(errors="backslashreplace")
    if json:
        output.as_json({**msgspec.structs.asdict(about), "body": text})
        return
    output.quarantine([about])
    output.plain(text)


@app.command("replay")
def replay_command(
    keys: SomeIds = None, reason: Reason = None, everything: All = False, json: Json = False
) -> None:
    """Try to read them again.

    What a newer version can read goes into the log and leaves quarantine.
    """

    async def work(runtime: Runtime) -> dict[str, int]:
        for key in keys or []:
            if await runtime.quarantine.show(key) is None:
                raise FailedError(f"there is no delivery {key} in quarantine; nothing was changed")
        chosen = keys or await _chosen(runtime, reason, everything=everything)
        taken = [await runtime.ingest.replay(key) for key in chosen]
        return {"taken": sum(taken), "left": len(taken) - sum(taken)}

    found = with_runtime(work)
    if json:
        output.as_json(found)
    else:
        output.plain(f"taken: {found['taken']}, still in quarantine: {found['left']}")
    if found["left"]:
        raise FailedError("not all could be read")


@app.command("purge")
def purge_command(
    keys: SomeIds = None, reason: Reason = None, everything: All = False, yes: Yes = False
) -> None:
    """Delete them for good."""

    async def choose(runtime: Runtime) -> list[uuid.UUID]:
        if not keys:
            return await _chosen(runtime, reason, everything=everything)
        there = await runtime.quarantine.keys(None)
        return sorted(set(keys).intersection(there))

    chosen = with_runtime(choose)
    confirm(f"Delete {len(chosen)} deliveries for good?", yes=yes)

    async def work(runtime: Runtime) -> int:
        if chosen:  # first, so that nothing is gone without being accounted for
            act = Act("quarantine purge", operator(), about={"deliveries": len(chosen)})
            await runtime.log.audit.write(act)
        return sum([await runtime.quarantine.remove(key) for key in chosen])

    output.plain(f"deleted: {with_runtime(work)}")


async def _chosen(runtime: Runtime, reason: str | None, *, everything: bool) -> list[uuid.UUID]:
    if reason is None and not everything:
        raise typer.BadParameter("name ids, a --reason, or --all")
    return await runtime.quarantine.keys(reason)
