"""Commands about bearer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import output
from api.cli.shared import FailedError, Json, new_group, with_runtime
from api.web.tokens import Scope, Tokens

if TYPE_CHECKING:
    from api.runtime import Runtime
    from api.web.tokens import Token

app = new_group()
_NAME_MAX = 200
Name = Annotated[str, typer.Option(help="What it is for, as `list` shows it.")]
Applications = Annotated[
    list[str] | None, typer.Option("--application", help="Only this one; can be given repeatedly.")
]
Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="read, erase or admin, which is all; not given: read."),
]


@app.command("create")
def create_command(
    name: Name, application: Applications = None, scope: Scopes = None, json: Json = False
) -> None:
    """Make a token and print it once."""
    if not (name.strip() and len(name) <= _NAME_MAX):
        problem = f"a name has 1 to {_NAME_MAX} characters"
        raise typer.BadParameter(problem, param_hint="--name")

    async def work(runtime: Runtime) -> str:
        tokens = Tokens(runtime.pool, runtime.master_key)
        return await tokens.create(name, scope or [Scope.READ], application or None)

    token = with_runtime(work, owner=True)
    if json:
        output.as_json({"token": token})
    else:
        output.plain(token)


@app.command("list")
def list_command(json: Json = False) -> None:
    """List all tokens and when they were last used."""

    async def work(runtime: Runtime) -> list[Token]:
        return await Tokens(runtime.pool, runtime.master_key).all()

    found = with_runtime(work)
    if json:
        output.as_json(found)
    else:
        output.tokens(found)


@app.command("revoke")
def revoke_command(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As listed.")], json: Json = False
) -> None:
    """Revoke a token, within five seconds."""

    async def work(runtime: Runtime) -> bool:
        return await Tokens(runtime.pool, runtime.master_key).revoke(token_id)

    if not with_runtime(work):
        raise FailedError("no token has this id; see `userlog token list`")
    if json:
        output.as_json({"revoked": token_id})
    else:
        output.plain("revoked")
