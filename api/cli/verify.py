"""Commands that prove the log: verify, and signed heads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import files as line_files
from api.cli import output
from api.cli.shared import LOG, FailedError, Json, UsageError, new_group, progress, with_runtime
from eventstore import signed_heads
from eventstore.signed_heads import ForgedError, PublicKey, SignedHead
from eventstore.verify.finding import Finding, Note
from eventstore.verify.heads import read_signed
from eventstore.verify.whole import Against, verify
from projections.query.formats import rfc3339
from projections.rebuild.verify_parts import PARTS_EACH, in_processes

if TYPE_CHECKING:
    from api.runtime import Runtime

app = new_group()
Key = Annotated[
    str | None,
    typer.Option("--public-key", help="What `signed-heads --public-key` printed; default: ours."),
]
_AT_ONCE = timedelta(0)


@app.command("verify", rich_help_panel=LOG)
def verify_command(
    against: Annotated[
        list[str] | None,
        typer.Option(help="A head noted before, POSITION:HASH as `status --json` shows it."),
    ] = None,
    signed_head: Annotated[
        list[Path] | None,
        typer.Option(help="A file of signed heads, which have to hold; can be given repeatedly."),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(help="A file of signed heads: events up to them are trusted, and not read."),
    ] = None,
    public_key: Key = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that verify.")] = 1,
    json: Json = False,
) -> None:
    """Prove that the log is whole and unaltered.

    Fails if an event was altered, dropped, inserted or reordered, if a user was renamed, or an
    erasure undone, or a signed head does not hold; and names the first place.
    """
    try:
        notes = [Note.parse(text) for text in against or []]
    except ValueError:
        raise typer.BadParameter("like 0:42:9f86d0…", param_hint="--against") from None
    given = None if public_key is None else _public_key(public_key)

    async def work(runtime: Runtime) -> tuple[list[Finding], int, int]:
        log = runtime.log
        key = given
        if key is None and (signed_head or since):
            known = await signed_heads.known_key(log)
            if known is None:
                raise FailedError("the log has no key that signed anything; give --public-key KEY")
            key = known.public
        signed = [one for path in signed_head or [] for one in _read(path, key)]
        trusted = [] if since is None else _read(since, key)
        # Of several the newest, and all have to hold.
        after = {
            one.position.partition: one
            for one in sorted(trusted, key=lambda one: (one.position, one.audit_number))
        }
        run = in_processes(log, runtime.source, workers) if workers > 1 else None
        ends = sum(head.position.number for head in await log.heads())
        counted = 0
        with progress("verifying") as update:

            def count(done: int, total: int) -> None:
                nonlocal counted
                counted = done
                update(done, total)

            found = await verify(
                log,
                progress=count,
                against=Against(notes, [*signed, *trusted], after),
                pieces=workers * PARTS_EACH if workers > 1 else 1,
                run=run,
            )
        return found, max(0, ends - sum(one.position.number for one in after.values())), counted

    findings, events, rows = with_runtime(work)
    if json:
        found = [
            {"what": f.what, "position": str(f.position), "problem": f.problem} for f in findings
        ]
        output.as_json({"events": events, "rows": rows, "findings": found})
    if findings:
        raise FailedError("; ".join(map(str, findings)))
    if not json:
        output.plain(f"verified: {events} events")


@app.command("signed-heads", rich_help_panel=LOG)
def signed_heads_command(
    key: Annotated[
        str | None, typer.Argument(help="With --check: the public key, as --public-key prints it.")
    ] = None,
    public_key: Annotated[
        bool, typer.Option("--public-key", help="Print what verifies them; with --check: KEY.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Judge a file with --public-key KEY; needs no database."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write them to this file.")] = None,
    sign: Annotated[bool, typer.Option("--sign", help="Sign the present heads first.")] = False,
    json: Json = False,
) -> None:
    """Print the newest signed head of each partition, or judge a file of some.

    Keep them where the database's administrator can't change them: with a signed head kept
    elsewhere, `userlog verify --signed-head` finds a log that was cut off or written again.
    """
    if check is not None:
        if key is None:
            raise UsageError("--check needs --public-key KEY, as `signed-heads --public-key` said")
        _check(check, _public_key(key), json=json)
        return
    if key is not None:
        raise UsageError("a KEY is for --check FILE")

    async def work(runtime: Runtime) -> tuple[str | None, list[signed_heads.StoredHead]]:
        log = runtime.log
        if sign:
            await signed_heads.sign(log, 1, _AT_ONCE)
        # Only who asks for a key gets one made.
        find = signed_heads.signing_key if public_key else signed_heads.known_key
        ours = await find(log)
        return str(ours.public) if ours else None, await signed_heads.newest(log)

    ours, found = with_runtime(work)
    if public_key:
        output.plain(f"{ours}")
        return
    if not found:
        raise FailedError("no head has been signed yet; --sign signs the present ones")
    if json:
        output.as_json({"public_key": ours, "heads": [one.note for one in found]})
        return
    with line_files.writing(out, ending=b"") as write:
        for one in found:
            write(one.note.encode())


def _public_key(text: str) -> PublicKey:
    try:
        return PublicKey.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--public-key") from None


def _read(path: Path, key: PublicKey | None) -> list[SignedHead]:
    assert key is not None, "asked for before"  # noqa: S101
    with line_files.naming(path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return list(read_signed(text, key))
    except ForgedError as error:
        raise FailedError(f"{path} {error}") from None


def _check(path: Path, key: PublicKey, *, json: bool) -> None:
    found = _read(path, key)
    if json:
        output.as_json([one.text() for one in found])
        return
    for one in found:
        output.plain(f"good: {one.position} of log {one.log_id}, signed {rfc3339(one.signed_at)}")
