"""Whether a database has the tables and functions of a version of the schema.

What each version has stands in `upgrades/NNNN.json`, read from a new installation. Indexes, rights
and the tables of generations are not compared.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventstore.postgres.sessions import Connection

_SQL = statements.load("eventstore.postgres")
# By name: a table's columns with their types, or hashes of a function's texts by its arguments.
Entries: TypeAlias = dict[str, dict[str, str]]
# Left out on distributed PostgreSQL, see guard.sql.
_GUARD = "refuse_change"


class Catalogue(msgspec.Struct, frozen=True):
    """What there is in the schema `userlog`."""

    tables: Entries
    functions: Entries


async def read(connection: Connection) -> Catalogue:
    """Read what a database has."""
    tables: Entries = {}
    for row in await connection.fetch(_SQL["columns"]):
        tables.setdefault(row["relname"], {})[row["attname"]] = row["type"]
    functions: Entries = {}
    for row in await connection.fetch(_SQL["functions"]):
        hashed = hashlib.sha256(row["prosrc"].encode()).hexdigest()[:16]
        functions.setdefault(row["proname"], {})[row["arguments"]] = hashed
    return Catalogue(tables, functions)


def expected(version: int) -> Catalogue:
    """Return what a version of the schema has."""
    path = Path(__file__).parent / "upgrades" / f"{version:04}.json"
    return msgspec.json.decode(path.read_bytes(), type=Catalogue)


def names(version: int) -> set[str]:
    """Return the names of a version as `additional` writes them."""
    found = expected(version)
    return {*additional(Catalogue({}, {}), found)}.union(
        f"{table}.{column}" for table, columns in found.tables.items() for column in columns
    )


def faults(right: Catalogue, found: Catalogue) -> list[str]:
    """Name what is missing or different, in words."""
    tables = [
        *_names("table", right.tables.keys() - found.tables.keys(), "is missing"),
        *(
            fault
            for table, columns in right.tables.items()
            if table in found.tables
            for fault in _of_table(table, columns, found.tables[table])
        ),
    ]
    functions = [
        name
        for name, texts in right.functions.items()
        if any(found.functions.get(name, {}).get(key) != text for key, text in texts.items())
        and not (name == _GUARD and name not in found.functions)
    ]
    return [*tables, *_names("function", functions, "is missing or different")]


def _of_table(table: str, right: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    missing = right.keys() - found.keys()
    other = [name for name in right.keys() & found.keys() if right[name] != found[name]]
    return [
        *_names("column", (f"{table}.{name}" for name in missing), "is missing"),
        *_names("column", (f"{table}.{name}" for name in other), "has another type"),
    ]


def additional(right: Catalogue, found: Catalogue) -> list[str]:
    """Name what a database has beyond a version of the schema."""
    tables = found.tables.keys() - right.tables.keys()
    columns = (
        f"{table}.{name}"
        for table, names in found.tables.items()
        if table in right.tables
        for name in names.keys() - right.tables[table].keys()
    )
    functions = (
        f"{name}({arguments})"
        for name, texts in found.functions.items()
        for arguments in texts.keys() - right.functions.get(name, {}).keys()
    )
    return [*sorted(tables), *sorted(columns), *sorted(functions)]


def _names(kind: str, names: Iterable[str], what: str) -> list[str]:
    return [f"{kind} {name} {what}" for name in sorted(names)]
