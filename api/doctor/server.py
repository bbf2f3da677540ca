"""What the database server is, how it is set, and what is in the schema."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from api.doctor.finding import Finding, broken, counted, ok, span, warning
from eventstore.errors import LogError, MasterKeyMovedError, SchemaError
from eventstore.postgres import schema, statements
from eventstore.sealing import current_key

if TYPE_CHECKING:
    from api.config.settings import Settings
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey

_SQL = statements.load("api.doctor")
_KEYS_SQL = statements.load("eventstore.sealing")
_CLOCK_S, _CLOCK_WRONG_S = 2.0, 300.0
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (\w+)")
_TRIGGER = re.compile(r"CREATE TRIGGER (\w+)")
_TABLE = re.compile(r"CREATE TABLE userlog\.(\w+)")
# Settings that must not be so, what follows from them, and whether something may be lost.
_SETTINGS = {
    ("fsync", "off"): ("a power cut can destroy the database", True),
    ("full_page_writes", "off"): ("a power cut can destroy the database", True),
    ("synchronous_commit", "off"): ("what was acknowledged can be lost in a crash", True),
    ("autovacuum", "off"): ("tables grow, and become slow", False),
    ("track_counts", "off"): ("autovacuum does nothing: tables grow, and become slow", False),
    ("default_transaction_read_only", "on"): ("nothing can be written", True),
}


async def server(connection: Connection, settings: Settings) -> list[Finding]:
    """Version, encoding, clock and settings of the server."""
    before = datetime.now(UTC)
    row = await connection.fetchrow(_SQL["server"])
    after = datetime.now(UTC)
    assert row is not None  # noqa: S101 - it is a row of functions
    where = settings.data_dir if settings.database_url is None else row["database"]
    kind = "embedded PostgreSQL" if settings.database_url is None else "PostgreSQL"
    said = f"{kind} {row['version'].split()[0]}, {where}, as {row['login']}, {row['size']}"
    least = schema.SERVER_VERSION_MIN
    if connection.get_server_version().major < least:
        found = [broken("database", said, f"userlog needs PostgreSQL {least} or newer")]
    elif row["follows"]:
        todo = "set USERLOG_DATABASE_URL to the primary, or promote this one (pg_promote)"
        found = [
            broken("database", f"{said}: it follows another server, and takes no writes", todo)
        ]
    else:
        found = [ok("database", said)]
    found.append(_encoding(connection))
    found.append(_clock(before, row["now"], after))
    found += await _settings(connection, settings)
    return found


def _encoding(connection: Connection) -> Finding:
    try:
        schema.check_encoding(connection)
    except SchemaError as error:
        return broken("encoding", str(error), "docs/operations.md, Two roles, has the statement")
    return ok("encoding", connection.get_settings().server_encoding)


def _clock(before: datetime, there: datetime, after: datetime) -> Finding:
    """Compare the clocks; what lies between asking and the answer is not their difference."""
    ahead = (there - after).total_seconds()
    behind = (before - there).total_seconds()
    off = max(ahead, behind, 0.0)
    said = f"the server's is {span(off)} {'ahead' if ahead > behind else 'behind'}"
    todo = "set the clocks of both machines by NTP: times of recording are the server's"
    if off > _CLOCK_WRONG_S:
        return broken("clock", said, todo)
    if off > _CLOCK_S:
        return warning("clock", said, todo)
    return ok("clock", "this machine's and the server's agree")


async def _settings(connection: Connection, settings: Settings) -> list[Finding]:
    names = [*{name for name, _ in _SETTINGS}, "max_connections"]
    rows = await connection.fetch(_SQL["server_settings"], names)
    values = {row["name"]: row["setting"] for row in rows}
    found = [
        (broken if loses else warning)("settings", f"{name} is {value}: {so}", f"set {name} back")
        for (name, value), (so, loses) in _SETTINGS.items()
        if values.get(name) == value
    ]
    pools = settings.workers + (settings.workers > 1)
    wanted, there = pools * settings.pool_connections_max, int(values["max_connections"])
    if wanted > there:
        said = f"{pools} processes may open {wanted} connections, and max_connections is {there}"
        found.append(warning("settings", said, "lower USERLOG_POOL_CONNECTIONS_MAX, or raise it"))
    return found or [ok("settings", "nothing that endangers the log")]


async def installed(connection: Connection, settings: Settings) -> tuple[list[Finding], bool]:
    """What is in the schema, and whether the rest can be looked at."""
    try:
        checked = await schema.check(connection)
    except LogError as error:
        return [broken("schema", str(error), "docs/deploying.md, A new version")], False
    partitions = counted(checked.partitions, "partition")
    found = [ok("schema", f"version {schema.SCHEMA_VERSION}, {partitions}")]
    # The service of an embedded database logs in as another than this connection.
    if checked.as_owner and settings.database_url is not None:
        todo = "docs/operations.md, Two roles: a login that is a member of userlog_app alone"
        found.append(warning("login", "it owns the schema, so it can change the log", todo))
    beyond = [*checked.additional, *await _foreign(connection)]
    if beyond:
        todo = "userlog did not make them: drop them, unless you know what they are for"
        found.append(warning("additional objects", ", ".join(beyond), todo))
    return found, True


async def _foreign(connection: Connection) -> list[str]:
    text = schema.schema_path().read_text(encoding="utf-8")
    known = [*_INDEX.findall(text), *(f"{name}_pkey" for name in _TABLE.findall(text))]
    guards = _TRIGGER.findall(schema.guard_path().read_text(encoding="utf-8"))
    indexes = await connection.fetch(_SQL["foreign_indexes"], known)
    triggers = await connection.fetch(_SQL["foreign_triggers"], guards)
    return [
        *(f"index {row['name']} on {row['on_table']}" for row in indexes),
        *(f"trigger {row['name']} on {row['on_table']}" for row in triggers),
    ]


async def keys(connection: Connection, master_key: MasterKey) -> Finding:
    """Whether the master key is the one that the log is written with."""
    held = " and ".join(one.hex() for one in master_key.fingerprints)
    try:
        await current_key.check(connection, master_key)
    except MasterKeyMovedError as error:
        return broken("master key", str(error), "docs/operations.md, Another master key")
    heads = [row["fingerprint"] for row in await connection.fetch(_SQL["fingerprints"])]
    wrong = [one for one in heads if one not in master_key.fingerprints]
    if wrong:
        said = f"{wrong[0].hex()} wrote some partitions, and {held} is set"
        return broken("master key", said, "docs/operations.md, Another master key")
    noted = {row["name"] for row in await connection.fetch(_KEYS_SQL["master_keys"])}
    if "previous" in noted or len(heads) > 1:
        said = f"a rotation is unfinished; {held} are set"
        return warning("master key", said, "run `userlog rotate-master-key` again")
    if master_key.has_previous:
        rotated = master_key.current == master_key.new
        which = "new" if rotated else "previous"
        said = f"two are set; the log is written with the {which} one, {master_key.current.hex()}"
        todo = "take the old key away" if rotated else "run `userlog rotate-master-key`"
        return warning("master key", said, todo)
    return ok("master key", f"fingerprint {held}")


async def sessions(connection: Connection) -> list[Finding]:
    """Who else is connected, and services of another version among them."""
    rows = await connection.fetch(_SQL["sessions"])
    ours = f"userlog {version('userlog')}"
    named = [f"{row['sessions']} of {row['name'] or 'no name'} as {row['login']}" for row in rows]
    others = {row["name"] for row in rows if _other_version(row["name"], ours)}
    said = "; ".join(named) or "none"
    if others:
        listed = ", ".join(sorted(others))
        todo = f"stop it, or bring it to this version ({ours})"
        return [warning("other sessions", f"a service of another version: {listed}", todo)]
    return [ok("other sessions", said)]


def _other_version(name: str, ours: str) -> bool:
    return name.split(" ", maxsplit=1)[0] == "userlog" and name != ours
