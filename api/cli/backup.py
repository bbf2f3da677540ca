"""Commands that back up the embedded database, and restore it."""

from __future__ import annotations

import os
import shlex
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
from msgspec import UNSET

from api.cli import output
from api.cli.shared import (
    LOG,
    FailedError,
    Json,
    UsageError,
    new_group,
    progress,
    read_settings,
    run,
)
from api.config.secret_files import FILES, Secrets, master_keys
from api.config.settings import Settings
from api.runtime import database_urls, opened, require_data
from eventstore import read
from eventstore.errors import OtherVersionError
from eventstore.postgres import embedded, embedded_backup, schema
from eventstore.postgres.embedded_account import major
from eventstore.postgres.embedded_backup import About
from eventstore.postgres.pool import owner_connection
from eventstore.verify.finding import Note
from eventstore.verify.whole import verify
from projections.query.formats import rfc3339

app = new_group()
_log = structlog.stdlib.get_logger("userlog")


class Checked(msgspec.Struct, frozen=True):
    """What a check of a backup has found; `findings` are what is wrong."""

    complete_until: str
    heads: list[str]
    events: int
    quarantined: int
    findings: list[str]


@app.command("backup", rich_help_panel=LOG)
def backup_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or is empty.")
    ],
    json: Json = False,
) -> None:
    """Copy the embedded database, while everything goes on.

    DIR is there when all of the copy is, checked and on the disk. No secret is in it: keep the
    master key elsewhere. What it holds can be read only with that key, but for the read models.
    """
    settings = _embedded()
    require_data(settings)
    cluster = Path(settings.data_dir).resolve() / embedded.CLUSTER
    if cluster in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(f"{folder} is in the database that is to be copied; name another folder")
    about = run(_back_up(settings, folder))
    if json:
        output.as_json(about)
        return
    output.plain(
        f"backed up: {about.bytes} bytes in {folder.resolve()}, complete until"
        f" {rfc3339(about.complete_until)}",
        f"the master key is {about.master_key}",
        f"`userlog restore --check {shlex.quote(str(folder))}` tries it",
    )


@app.command("restore", rich_help_panel=LOG)
def restore_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A backup.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only try it: start a copy aside and verify its log.")
    ] = False,
    json: Json = False,
) -> None:
    """Restore a backup, or try whether it can be restored.

    It becomes the database of USERLOG_DATA_DIR, which must have none; nothing that is there is
    removed. With --check the copy is made below TMPDIR and removed afterwards; that needs the
    master key. DIR stays as it is.
    """
    settings = _embedded()
    about = embedded_backup.read_about(folder)
    if about.schema > schema.SCHEMA_VERSION:
        raise OtherVersionError(about.schema, schema.SCHEMA_VERSION)
    notes, complete_until = _read(folder, about)
    if check:
        _report(_check(folder, about, notes, settings), json=json)
        return
    data_dir = Path(settings.data_dir)
    run(_copy(folder, data_dir, "USERLOG_DATA_DIR"))
    if json:
        output.as_json(about)
        return
    output.plain(
        f"restored: {data_dir.resolve() / embedded.CLUSTER}, complete until {complete_until}",
        "before you serve, as docs/backup.md says under After restoring:",
        f"- put the secrets in their place; the master key is {about.master_key}",
        "- run `userlog verify`",
        "- erase again who was erased since, and revoke the tokens that were revoked since",
        "- let those who follow the feed begin again at the restored head",
    )


def _read(folder: Path, about: About) -> tuple[list[Note], str]:
    """Return the noted heads, and until when a backup is complete, as it is written."""
    try:
        return [Note.parse(head) for head in about.heads], rfc3339(about.complete_until)
    except (ValueError, OverflowError):
        raise FailedError(
            f"heads or complete_until in {folder / 'backup.json'} is damaged; take another backup"
        ) from None


def _embedded() -> Settings:
    settings = read_settings()
    if settings.database_url is not None:
        raise UsageError(
            "USERLOG_DATABASE_URL is set, and a server is backed up with its own programs, such as"
            " pg_basebackup or pgBackRest: see docs/backup.md"
        )
    return settings


async def _back_up(settings: Settings, folder: Path) -> About:
    """Make a backup, of a database of any version up to this one."""
    with embedded_backup.unfinished(folder) as made:
        async with (
            database_urls(settings) as urls,
            owner_connection(urls.owner, settings.database_timeout_s) as connection,
        ):
            installed = await schema.installed(connection)
            heads = [f"{head.position}:{head.chain.hex()}" for head in await read.heads(connection)]
            with progress("copying") as update:
                copied = await embedded_backup.copy_cluster(connection, urls.owner, made, update)
        about = About(
            userlog=metadata.version("userlog"),
            schema=installed.version,
            postgres=major(),
            begun_at=copied.begun_at,
            complete_until=copied.complete_until,
            heads=heads,
            bytes=copied.bytes,
            master_key=_where_the_key_is(settings),
        )
        embedded_backup.write_about(made.folder, about)
    return about


def _where_the_key_is(settings: Settings) -> str:
    place = "set as USERLOG_MASTER_KEY"
    if settings.master_key is UNSET:
        path = os.fsencode(Path(settings.data_dir).resolve() / FILES["master_key"])
        place = f"in {path.decode(errors='replace')}"
    return f"not in the backup: it was {place}, and belongs apart from it"


async def _copy(folder: Path, data_dir: Path, setting: str) -> None:
    def notice(text: str) -> None:
        _log.info(text)

    with progress("copying") as update:
        await embedded_backup.restore(
            folder, data_dir, setting=setting, notice=notice, update=update
        )


def _check(folder: Path, about: About, notes: list[Note], settings: Settings) -> Checked:
    """Start a copy aside and verify it."""
    if about.schema < schema.SCHEMA_VERSION:
        raise FailedError(
            f"the backup has schema version {about.schema}: check it with userlog {about.userlog},"
            " which made it; once it is restored, `userlog serve` upgrades it"
        )
    secrets = master_keys(settings)
    with tempfile.TemporaryDirectory(prefix="userlog-check-") as aside:
        there = msgspec.structs.replace(settings, data_dir=str(Path(aside) / "data"))
        return run(_checked(folder, about, notes, there, secrets))


async def _checked(
    folder: Path, about: About, notes: list[Note], settings: Settings, secrets: Secrets
) -> Checked:
    await _copy(folder, Path(settings.data_dir), "TMPDIR")
    async with opened(settings, secrets) as runtime:
        with progress("verifying") as update:
            findings = await verify(runtime.log, notes=notes, progress=update)
        heads = [head.position for head in await runtime.log.heads()]
        return Checked(
            rfc3339(about.complete_until),
            list(map(str, heads)),
            sum(head.number for head in heads),
            await runtime.quarantine.count(),
            list(map(str, findings)),
        )


def _report(found: Checked, *, json: bool) -> None:
    if json:
        output.as_json(found)
    if found.findings:
        raise FailedError("; ".join(found.findings))
    if not json:
        output.plain(
            f"the backup is whole: {found.events} events verified, up to {', '.join(found.heads)};"
            f" {found.quarantined} in quarantine",
            f"complete until {found.complete_until}",
        )
