"""The schema: install `schema.sql`, refuse what does not fit."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import msgspec

from eventstore.errors import NotThereError, OtherVersionError, RightsError, SchemaError
from eventstore.postgres import catalogue, statements
from eventstore.postgres.sessions import SCHEMA, SERVICE_ROLE

if TYPE_CHECKING:
    from eventstore.postgres.sessions import Connection

SCHEMA_VERSION = 6
SERVER_VERSION_MIN = 15
# Of these PostgreSQL converts no text, or to the same.
_ENCODINGS = ("UTF8", "SQL_ASCII")
# An advisory lock's number: only keeps two installers apart, nothing later depends on it.
_INSTALL_LOCK = 0x757365726C6F67
_DIGEST = re.compile(r"'[0-9a-f]{16}'")
_READ_MODELS = re.compile(r"^-- \[read models\][^\n]*\n(.*)^-- \[end\]", re.MULTILINE | re.DOTALL)
_SQL = statements.load("eventstore.postgres")


class Checked(NamedTuple):
    """What a check found.

    Partitions, the log's identity, what is there beyond the schema, and whether its owner has
    logged in.
    """

    partitions: int
    log_id: uuid.UUID
    additional: list[str]
    as_owner: bool


def schema_path() -> Path:
    """Find `schema.sql`: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).parents[1]
    for path in (here / "schema.sql", here.parent / "schema.sql"):
        if path.is_file():
            return path
    msg = f"schema.sql is neither in {here} nor above it; the installation is incomplete"
    raise SchemaError(msg)


def guard_path() -> Path:
    """Find `guard.sql`, which has what only a single server has."""
    return Path(__file__).with_name("guard.sql")


def statements_of(path: Path) -> list[str]:
    """Split a file of ours at its blank lines, so that each statement can be sent alone."""
    return _split(path.read_text(encoding="utf-8"))


def read_models(schema: str) -> list[str]:
    """Return the statements that make the read models, empty, in another schema."""
    text = _READ_MODELS.findall(schema_path().read_text(encoding="utf-8"))[0]
    return _split(re.sub(rf"\b{SCHEMA}\b", schema, text))


def _split(text: str) -> list[str]:
    parts = text.split("\n\n")
    return [part for part in parts if any(not line.startswith("--") for line in part.splitlines())]


@cache
def digest() -> str:
    """Return a digest of the statements of schema.sql and guard.sql.

    A digest that is written there, as in the last statement of schema.sql, counts as empty.
    Lines that are only a comment don't count.
    """
    parts = [*statements_of(schema_path()), *statements_of(guard_path())]
    lines = (line for part in parts for line in part.splitlines())
    said = "\n".join(line for line in lines if not line.lstrip().startswith("--"))
    return hashlib.sha256(_DIGEST.sub("''", said).encode()).hexdigest()[:16]


async def install(connection: Connection, partitions: int = 1) -> bool:
    """Install the schema unless it is there; return whether this call did it.

    Two callers at once don't collide: one installs, the other finds it installed. SchemaError
    if the server is too old or the database holds a schema of another version.
    """
    server = connection.get_server_version().major
    if server < SERVER_VERSION_MIN:
        msg = f"PostgreSQL {server} is too old; userlog needs {SERVER_VERSION_MIN} or newer"
        raise SchemaError(msg)
    check_encoding(connection)
    # After the wait for the lock a statement must see what others did meanwhile.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _INSTALL_LOCK)
        if await connection.fetchval("SELECT to_regnamespace('userlog') IS NOT NULL"):
            await check(connection)
            return False
        await _run(connection, schema_path())
        await _add_partitions(connection, partitions)
        with contextlib.suppress(asyncpg.FeatureNotSupportedError):
            async with connection.transaction():
                await _run(connection, guard_path())
    return True


def check_encoding(connection: Connection) -> None:
    """SchemaError if the database can't hold every name."""
    encoding = connection.get_settings().server_encoding
    if encoding not in _ENCODINGS:
        msg = (
            f"the database's encoding is {encoding}, which can't hold every name; userlog needs a"
            " database with UTF8: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
        raise SchemaError(msg)


async def _run(connection: Connection, path: Path) -> None:
    try:
        for statement in statements_of(path):
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        msg = (
            f"this database user may not install {path.name} ({error.args[0]}); it must be able to"
            " create a schema, and the role userlog_app unless an administrator has created it"
        )
        raise SchemaError(msg) from error


async def _add_partitions(connection: Connection, partitions: int) -> None:
    await connection.execute("UPDATE userlog.meta SET partitions = $1", partitions)
    rest = range(1, partitions)
    await connection.execute(
        "INSERT INTO userlog.log_head (partition) SELECT unnest($1::integer[])", rest
    )
    await connection.execute(
        "INSERT INTO userlog.audit_head (partition) SELECT unnest($1::integer[])", rest
    )
    await connection.execute(
        "INSERT INTO userlog.checkpoints (partition, generation) SELECT unnest($1::integer[]), 1",
        rest,
    )


class Installed(NamedTuple):
    """The version of a schema, and whether the login has the rights of its owner."""

    version: int
    as_owner: bool


async def installed(connection: Connection) -> Installed:
    """Return what schema is in a database.

    Raises:
        NotThereError: there is none.
        RightsError: the login may not use it.
        SchemaError: it is not userlog's, or of a later version than this one.

    """
    rights = await connection.fetchrow(_SQL["rights"])
    if rights is None:
        name = await connection.fetchval("SELECT current_database()")
        raise NotThereError(
            f"the database {name} has no userlog in it; `userlog init` installs it there,"
            " USERLOG_DATABASE_URL names another database"
        )
    if not (rights["is_service"] or rights["is_owner"]):
        raise RightsError(
            f"the database user {rights['login']} may not use userlog there; let an administrator"
            f" run: GRANT {SERVICE_ROLE} TO {rights['login']}"
        )
    version: int | None = (await _meta(connection)).get("schema_version")
    if version is None:
        msg = (
            "the database has a schema `userlog` that is not userlog's, or not complete;"
            " check that USERLOG_DATABASE_URL names the right database"
        )
        raise SchemaError(msg)
    if version > SCHEMA_VERSION:
        raise OtherVersionError(version, SCHEMA_VERSION)
    return Installed(version, rights["is_owner"])


async def check(connection: Connection) -> Checked:
    """Check that the schema is there, and of this version.

    Errors as of `installed`; OtherVersionError too if it is of an earlier version, SchemaError if a
    part of it is missing or different.
    """
    version, as_owner = await installed(connection)
    if version != SCHEMA_VERSION:
        raise OtherVersionError(version, SCHEMA_VERSION)
    found = await _meta(connection)
    if found.get("digest") != digest():
        msg = (
            f"the database has schema version {version} of another build ({found.get('digest')}),"
            f" this userlog needs {digest()}; run the build that belongs to the database"
        )
        raise SchemaError(msg)
    log_id = uuid.UUID(found["log_id"])
    additional = await check_catalogue(connection, version)
    return Checked(found["partitions"], log_id, additional, as_owner)


async def partitions_of(connection: Connection) -> int:
    """Return the number of partitions of a schema of any version."""
    count: int = (await _meta(connection))["partitions"]
    return count


async def check_catalogue(connection: Connection, version: int) -> list[str]:
    """Return what is there beyond a version; SchemaError if a part is missing or different."""
    right, found = catalogue.expected(version), await catalogue.read(connection)
    if wrong := catalogue.faults(right, found):
        msg = (
            f"the database is not as schema version {version} made it: {'; '.join(wrong)}."
            " If an unreleased userlog made it, export with that one and import into a new"
            " database; else restore what was changed"
        )
        raise SchemaError(msg)
    return catalogue.additional(right, found)


async def is_current(connection: Connection) -> bool:
    """Say whether the schema is still the one of this version."""
    found = await _meta(connection)
    return (found.get("schema_version"), found.get("digest")) == (SCHEMA_VERSION, digest())


async def _meta(connection: Connection) -> dict[str, Any]:
    """Read the row of `meta`, whatever columns its version has; empty without one."""
    try:
        text = await connection.fetchval("SELECT to_json(m)::text FROM userlog.meta m")
    except asyncpg.UndefinedTableError:
        text = None
    return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])
