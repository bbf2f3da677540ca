"""The command that brings the schema of a database to this version."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import output
from api.cli.shared import (
    SERVICE,
    FailedError,
    Json,
    StoppedError,
    new_group,
    read_settings,
    run,
    secrets_there,
)
from api.runtime import database_urls, source_of, take_apart
from eventstore.postgres import schema, upgrade
from eventstore.postgres.pool import owner_connection
from projections.upgrade import Upgraded, Watcher, drop_unfinished, upgrade_schema

if TYPE_CHECKING:
    from api.config.secret_files import Secrets
    from api.config.settings import Settings
    from eventstore.postgres.upgrade import Step
    from projections.rebuild.progress import Progress

app = new_group()
_INTERRUPTED = (
    "interrupted; `userlog upgrade` goes on where it stopped. Until then erasures by the old"
    " version don't reach the new read models: `userlog upgrade --drop` removes them"
)


class _Printing(Watcher):
    """Prints what goes on to standard error, each thing once."""

    def __init__(self) -> None:
        self._printed = ""

    def say(self, text: str) -> None:
        if text != self._printed:
            output.error(text)
            self._printed = text

    def filled(self, found: Progress) -> None:
        self.say(output.rebuild_line(found))


@app.command("upgrade", rich_help_panel=SERVICE)
def upgrade_command(
    plan: Annotated[
        bool, typer.Option("--plan", help="Change nothing; print what would be done.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that fold; default: one for each CPU.")
    ] = None,
    park: Annotated[
        bool, typer.Option("--park", help="Go on although users are parked who were not before.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Remove what an unfinished upgrade has made.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring the database to this version, in place.

    The log stays as it is; read models are made anew from it if the version needs that, while the
    old version goes on serving. An interrupted upgrade goes on where it stopped. There is no
    downgrade: the way back is a backup from before.
    """
    settings = read_settings()
    secrets = secrets_there(settings)
    if plan:
        _plan(run(_version(settings)), json=json)
        return
    if drop:
        _drop(settings, secrets)
        return

    async def work() -> Upgraded | None:
        async with database_urls(settings) as urls:
            source = source_of(urls, settings, secrets)
            processes = workers or os.cpu_count() or 1
            printing = _Printing()
            done = await upgrade_schema(source, processes, printing, parking=park)
            await take_apart(urls, settings, secrets, printing)
        return done

    try:
        done = run(work())
    except StoppedError:
        raise FailedError(_INTERRUPTED) from None
    if json:
        output.as_json(done)
    elif done is None:
        output.plain(f"nothing to do: the database has schema version {schema.SCHEMA_VERSION}")
    else:
        output.plain(f"upgraded: schema version {done.before} is {done.after} now")
        if done.parked:
            output.plain(f"{done.parked} users are parked; see `userlog parked`")


def _drop(settings: Settings, secrets: Secrets) -> None:
    async def work() -> bool:
        async with database_urls(settings) as urls:
            return await drop_unfinished(source_of(urls, settings, secrets))

    output.plain("removed" if run(work()) else "nothing to remove")


async def _version(settings: Settings) -> int:
    async with (
        database_urls(settings) as urls,
        owner_connection(urls.owner, settings.database_timeout_s) as connection,
    ):
        version, _ = await upgrade.inspect(connection)
        return version


def _plan(version: int, *, json: bool) -> None:
    steps = upgrade.steps_after(version)
    if json:
        output.as_json([step._asdict() for step in steps])
    elif not steps:
        output.plain(f"nothing to do: the database has schema version {version}")
    else:
        for step in steps:
            _print(step)


def _print(step: Step) -> None:
    output.plain(f"-- {step.file}: {step.about}")
    if step.makes_read_models:
        output.plain("-- before: new read models are filled from the log beside the old")
    output.plain(f"-- locked until it is committed: {step.locks}")
    for statement in step.statements:
        output.plain("")
        for line in statement.rstrip().splitlines():
            output.plain(line)
