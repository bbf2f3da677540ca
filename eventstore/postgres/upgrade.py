"""Upgrades of an installed schema: what leads from a version to the next, and the switch to it.

`upgrades/NNNN_name.sql` leads to version NNNN; there is no way back. Read models are not changed
but made anew: empty ones of the new version lie in a schema of their own, beside the old, and are
filled from the log while the old version goes on serving. Then one transaction runs the files,
which drop the old read models, and moves the new ones into their place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eventstore.errors import LogError, RightsError, SchemaError
from eventstore.postgres import catalogue, schema, statements
from eventstore.postgres.sessions import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.postgres.sessions import Connection

# Where the new read models are until the switch.
NEXT = "userlog_next"
FILES = Path(__file__).parent / "upgrades"
# The versions whose services don't notice that the schema has moved, so they are stopped before.
UNAWARE = (1,)
# From this version on the log knows which master key it is written with.
FINGERPRINTED = 3
_ABOUT = re.compile(r"-- To version \d+: (.*)\n-- Locks: (.*)\n-- Read models: (made anew|kept)\n")
_NUMBERED = ("next_checkpoints", "next_generation", "next_active", "next_checkpoint_generations")
_PROVEN, _FILLING = "proven", "filling"
_SWITCHED = "switched"
_OF_PARKED = {"stream_id", "position", "reason", "since"}
_LOCK_WAIT = "2s"
_SQL = statements.load("eventstore.postgres")
_NEXT_SQL = statements.load("eventstore.postgres", "next.sql")


class UpgradeRunningError(LogError):
    """Another upgrade of this database is running."""


class Step(NamedTuple):
    """What leads to a version: its statements, and what they lock until they are committed."""

    version: int
    file: str
    about: str
    locks: str
    makes_read_models: bool
    statements: list[str]


def steps_after(version: int) -> list[Step]:
    """Return the steps that lead from a version to the present one, in order."""
    numbered = ((int(path.name[:4]), path) for path in FILES.glob("[0-9]*.sql"))
    return [_read(number, path) for number, path in sorted(numbered) if number > version]


def _read(number: int, path: Path) -> Step:
    found = _ABOUT.match(path.read_text(encoding="utf-8"))
    assert found is not None, f"{path.name} begins with what it is about"  # noqa: S101
    about, locks, models = found.groups()
    return Step(number, path.name, about, locks, models == "made anew", schema.statements_of(path))


async def inspect(connection: Connection) -> tuple[int, list[str]]:
    """Return the schema's version, and what is there beyond it.

    Raises:
        RightsError: the login has not the rights of the schema's owner.
        SchemaError: the schema is not as a version made it, or is of a later one; or what is there
            beyond it has a name that the new version needs.

    """
    schema.check_encoding(connection)
    version, as_owner = await schema.installed(connection)
    if version == schema.SCHEMA_VERSION:
        return version, []
    if not as_owner:
        raise RightsError(
            "an upgrade needs the login of the schema's owner: USERLOG_OWNER_DATABASE_URL"
        )
    beyond = await schema.check_catalogue(connection, version)
    if taken := [name for name in beyond if name in catalogue.names(schema.SCHEMA_VERSION)]:
        raise SchemaError(
            f"userlog did not make {', '.join(taken)} in the schema userlog, and the new version"
            " has something of that name; rename it, and run `userlog upgrade` again"
        )
    return version, beyond


async def begin(connection: Connection) -> None:
    """Keep other upgrades away for as long as the connection is open, or UpgradeRunningError."""
    if not await connection.fetchval(_SQL["upgrade_lock"]):
        raise UpgradeRunningError("another upgrade of this database is running")


async def make_next(connection: Connection, mark: str) -> None:
    """Make the new read models, empty, unless code of the same mark has done so."""
    note = await _note(connection)
    if mark in note:
        return
    foreign = await connection.fetchval(_NEXT_SQL["next_is_there"])
    if foreign and not note.startswith((_PROVEN, _FILLING)):
        raise SchemaError(
            f"there is a schema {NEXT} that userlog did not make; rename it, and run `userlog"
            " upgrade` again"
        )
    async with connection.transaction():
        await connection.execute(f"DROP SCHEMA IF EXISTS {NEXT} CASCADE")
        await connection.execute(f"CREATE SCHEMA {NEXT}")
        for statement in schema.read_models(NEXT):
            await connection.execute(statement)
        for name in _NUMBERED:
            await connection.execute(_NEXT_SQL[name])
        await connection.execute(_NEXT_SQL["next_own_keys"])
        await _set_note(connection, f"{_FILLING} {mark}")


async def drop_next(connection: Connection) -> bool:
    """Throw the new read models away; return whether there were some."""
    if not (await _note(connection)).startswith((_PROVEN, _FILLING)):
        return False
    await connection.execute(f"DROP SCHEMA {NEXT} CASCADE")
    return True


async def is_proven(connection: Connection, mark: str) -> bool:
    """Say whether the new read models are filled, and were equal to the log then."""
    return await _note(connection) == f"{_PROVEN} {mark}"


async def set_proven(connection: Connection, mark: str) -> None:
    """Note that the new read models are filled, and equal to the log."""
    await _set_note(connection, f"{_PROVEN} {mark}")


async def _note(connection: Connection) -> str:
    return await connection.fetchval(_NEXT_SQL["next_note"]) or ""


async def _set_note(connection: Connection, note: str) -> None:
    quoted = await connection.fetchval("SELECT quote_literal($1)", note)
    await connection.execute(f"COMMENT ON SCHEMA {NEXT} IS {quoted}")


async def old_sessions(connection: Connection) -> list[str]:
    """Name the sessions of services and commands; those of an upgrade have another name."""
    rows = await connection.fetch(_SQL["old_sessions"], SCHEMA)
    return [f"pid {row['pid']} of {row['usename']} {row['client']}".rstrip() for row in rows]


async def newly_parked(connection: Connection, version: int) -> int:
    """Count the users who are parked in the new read models, and not in those of a version."""
    tables = catalogue.expected(version).tables  # by its columns, whatever the version called it
    old = next(name for name, has in tables.items() if has.keys() >= _OF_PARKED)
    count: int = await connection.fetchval(_NEXT_SQL["next_newly_parked"].format(old=old))
    return count


async def hold_log(connection: Connection) -> None:
    """Let appends and erasures wait until the transaction ends.

    asyncpg.LockNotAvailableError after two seconds, as for every lock of this transaction: what
    waits behind it waits no longer.
    """
    await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
    if not await connection.fetchval(_SQL["no_rebuild"]):
        raise LogError("a rebuild is running; the upgrade goes on when it is run again after it")
    await connection.execute(_SQL["heads_hold"])


async def writers(connection: Connection) -> list[str]:
    """Return the transactions that write to the log, or wait until they may.

    One that has waited for the switch goes on with the functions that it has begun with.
    """
    found: list[str] = await connection.fetchval(_NEXT_SQL["next_writers"])
    return found


async def are_writing(connection: Connection, transactions: list[str]) -> bool:
    """Say whether one of some transactions has not ended."""
    return bool(set(transactions) & set(await writers(connection)))


async def begin_audit(connection: Connection) -> None:
    """Demand no row of the audit for what earlier versions have erased, up to now; only once."""
    async with connection.transaction():
        if await connection.fetchval(_NEXT_SQL["next_left"]) == _SWITCHED:
            await connection.execute(_NEXT_SQL["next_audit_since"])
            await connection.execute(_NEXT_SQL["next_audit_begun"])


async def keeps_whole(connection: Connection) -> bool:
    """Say whether deliveries are left to be taken apart, which earlier versions kept whole."""
    return await connection.fetchval(_NEXT_SQL["next_left"]) is not None


async def took_apart(connection: Connection) -> None:
    """Note, as the owner, that none is left."""
    await connection.execute(_NEXT_SQL["next_taken_apart"])


async def switch(
    connection: Connection, steps: list[Step], executing: Callable[[str], None]
) -> None:
    """Run the steps, and put new read models into their place, in a transaction of the caller's.

    `executing` is called before each statement.
    """
    moves: list[str] = []
    if any(step.makes_read_models for step in steps):
        moves = [row["statement"] for row in await connection.fetch(_NEXT_SQL["next_moves"], NEXT)]
        moves += [f"DROP TABLE {NEXT}.own_keys", f"DROP SCHEMA {NEXT}"]
    for statement in [*(one for step in steps for one in step.statements), *moves]:
        executing(statement)
        await connection.execute(statement)
