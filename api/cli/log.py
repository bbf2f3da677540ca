"""Commands about the log as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import files as line_files
from api.cli import output
from api.cli.shared import (
    LOG,
    FailedError,
    Json,
    new_group,
    operator,
    progress,
    read_settings,
    with_runtime,
)
from api.config.secret_files import forget_previous, prepare_rotation
from api.export_import import Importer, chunks, export_lines
from api.runtime import require_data
from eventstore.events import Position
from eventstore.sealing.rotation import rotate

if TYPE_CHECKING:
    from api.export_import import Imported
    from api.runtime import Runtime

app = new_group()


@app.command("rotate-master-key", rich_help_panel=LOG)
def rotate_command(
    prepare: Annotated[
        bool, typer.Option("--prepare", help="First: make a new generated key beside the old.")
    ] = False,
) -> None:
    """Wrap all keys with a new master key.

    Set the new key as USERLOG_MASTER_KEY and the old one as USERLOG_PREVIOUS_MASTER_KEY in all
    processes (for a generated key: --prepare), and let them read both: SIGHUP, or a restart. Run
    this, then take the old key away. Nothing is refused meanwhile, and events stay as they are. A
    process that has the old key alone is refused by the log. It can be stopped and run again.
    """
    if prepare:
        settings = read_settings()
        require_data(settings)
        prepare_rotation(settings)
        output.plain(
            "prepared: let the service read both keys (SIGHUP, or restart it), then run this again"
            " without --prepare"
        )
        return

    async def work(runtime: Runtime) -> int:
        if not runtime.master_key.has_previous:
            raise FailedError(
                "there is no previous master key; see userlog rotate-master-key --help"
            )
        with progress("rotating") as update:

            def count(done: int) -> None:
                update(done, done)

            partitions = runtime.log.partitions
            done = await rotate(runtime.pool, partitions, runtime.master_key, count)
        forget_previous(runtime.settings)
        return done

    output.plain(
        f"rotated: {with_runtime(work, owner=True)} keys; the old master key opens nothing any"
        " more: take it away"
    )


@app.command("export", rich_help_panel=LOG)
def export_command(
    after: Annotated[
        list[str] | None, typer.Option(help="Only what comes after this position.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file, .gz and .zst compressed.")] = None,
) -> None:
    """Write the log as lines, one delivery each."""
    try:
        start = dict(Position.parse(text) for text in after or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--after") from None

    async def work(runtime: Runtime) -> int:
        if unknown := start.keys() - set(range(runtime.log.partitions)):
            problem = f"the log has no partition {min(unknown)}"
            raise typer.BadParameter(problem, param_hint="--after")
        total = sum(head.position.number for head in await runtime.log.heads())
        written = 0
        with line_files.writing(out) as write, progress("exporting") as update:
            async for line in export_lines(runtime.log, runtime.quarantine, start):
                write(line)
                written += 1
                update(written, max(written, total))
        return written

    output.error(f"{with_runtime(work)} lines written")


@app.command("import", rich_help_panel=LOG)
def import_command(
    files: Annotated[list[str], typer.Argument(help="One delivery a line; - for stdin.")],
    erasures: Annotated[
        bool, typer.Option("--with-erasures", help="Erase whom the file says was erased.")
    ] = False,
    json: Json = False,
) -> None:
    """Read deliveries into the log; safe to repeat.

    A file's lines about erased users are left out unless --with-erasures is given: for moving a
    log it has to be, and the file has to be one that you trust.
    """

    async def work(runtime: Runtime) -> Imported:
        by = operator("import") if erasures else None
        importer = Importer(runtime.log, runtime.quarantine, by)
        with progress("importing") as update:
            for name in files:
                for chunk in chunks(line_files.lines(name, update)):
                    await importer.take(chunk)
        return importer.done

    line_files.check(files)
    done = with_runtime(work, create=True)
    if json:
        output.as_json(done)
    else:
        counts = ("appended", "duplicates", "erased", "ignored", "quarantined")
        output.plain(", ".join(f"{name}: {getattr(done, name)}" for name in counts))
    if done.left_out:
        output.error(
            f"{done.left_out} lines about erased users were left out; --with-erasures takes them"
        )
