from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.errors import NotThereError, SchemaError
from eventstore.postgres import embedded, schema
from tests.support.database import PACKAGES, all_statements, connected, statement

if TYPE_CHECKING:
    from tests.conftest import Stack

ROOTS = ("eventstore", "projections", "api")
SCHEMAS = Path(__file__).parents[2] / "schemas"
_TABLES = """
SELECT relname, pg_relation_filenode(oid) FROM pg_class
WHERE relnamespace = 'userlog'::regnamespace ORDER BY 1
"""
_CONTENTS = """
SELECT 'column', concat_ws(' ', attrelid::regclass, attname, format_type(atttypid, atttypmod))
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace = 'userlog'::regnamespace AND attnum > 0
UNION ALL SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'userlog'
UNION ALL SELECT 'function', prosrc FROM pg_proc
WHERE pronamespace = 'userlog'::regnamespace AND proname <> 'refuse_change'
UNION ALL SELECT 'meta', schema_version::text || digest || partitions FROM userlog.meta
UNION ALL SELECT 'head', partition::text FROM userlog.log_head
UNION ALL SELECT 'checkpoint', partition::text || generation FROM userlog.checkpoints
ORDER BY 1, 2
"""


async def _psql(url: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(embedded.psql_path(), "--no-psqlrc", "--set=ON_ERROR_STOP=1"),
        *(f"--file={schema.schema_path()}", url),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_install_once(empty_database_url: str) -> None:
    """The first install installs, with the partitions asked for, and the second finds it."""
    async with connected(empty_database_url) as connection:
        assert await schema.install(connection, 3)
        assert not await schema.install(connection, 5)
        assert (await schema.check(connection)).partitions == 3
        heads = await connection.fetch("SELECT partition FROM userlog.log_head ORDER BY 1")
        assert [row["partition"] for row in heads] == [0, 1, 2]


async def test_two_installers(empty_database_url: str) -> None:
    """Of two installers at once one installs and the other finds it installed."""
    async with connected(empty_database_url) as one, connected(empty_database_url) as other:
        did = await asyncio.gather(schema.install(one), schema.install(other))
    assert sorted(did) == [False, True]


@pytest.mark.parametrize("partitions", [0, 1025])
async def test_impossible_partitions(empty_database_url: str, partitions: int) -> None:
    """A number of partitions out of range installs nothing."""
    async with connected(empty_database_url) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await schema.install(connection, partitions)
        assert await connection.fetchval("SELECT to_regnamespace('userlog')") is None


async def test_missing(empty_database_url: str) -> None:
    """A database without a schema is refused with the command that makes one."""
    async with connected(empty_database_url) as connection:
        with pytest.raises(NotThereError, match="`userlog init` installs it"):
            await schema.check(connection)


async def test_older_version(empty_database_url: str) -> None:
    """A database of version 1, as it was made, is refused with both numbers, and left alone."""
    async with connected(empty_database_url) as connection:
        for name in ("1-schema.sql", "1-guard.sql"):
            for statement in schema.statements_of(SCHEMAS / name):
                await connection.execute(statement)
        before = await connection.fetch(_TABLES)
        for refused in (schema.check, schema.install):
            with pytest.raises(SchemaError, match="version 1; `userlog upgrade` brings it"):
                await refused(connection)
        assert await connection.fetch(_TABLES) == before


async def test_newer_version(database_url: str) -> None:
    """A database of a later version is refused with both numbers."""
    async with connected(database_url) as connection:
        now = schema.SCHEMA_VERSION
        await connection.execute("UPDATE userlog.meta SET schema_version = $1", now + 1)
        for refused in (schema.check, schema.install):
            problem = rf"version {now + 1}; .* up to {now}: .*no downgrade"
            with pytest.raises(SchemaError, match=problem):
                await refused(connection)


async def test_another_build(database_url: str) -> None:
    """A database that was made from other statements under the same number is refused."""
    async with connected(database_url) as connection:
        await connection.execute("UPDATE userlog.meta SET digest = '0123456789abcdef'")
        for refused in (schema.check, schema.install):
            with pytest.raises(SchemaError, match="another build"):
                await refused(connection)


def test_digest() -> None:
    """schema.sql and guard.sql do not change without the digest that schema.sql stores."""
    *_, last = schema.statements_of(schema.schema_path())
    assert f"VALUES ({schema.SCHEMA_VERSION}, '{schema.digest()}', 1)" in last


@pytest.mark.parametrize("damage", ["DROP TABLE userlog.meta", "DELETE FROM userlog.meta"])
async def test_half_a_schema(database_url: str, damage: str) -> None:
    """A schema that does not say its version is refused, without advice that can't help."""
    async with connected(database_url) as connection:
        await connection.execute(damage)
        for refused in (schema.check, schema.install):
            with pytest.raises(SchemaError, match=r"not complete.*names the right database"):
                await refused(connection)


async def test_psql_alone(empty_database_url: str, database_url: str) -> None:
    """`psql -f schema.sql` makes exactly what `install` makes, but for the guard's triggers."""
    await _psql(empty_database_url)
    found: list[list[tuple[str, ...]]] = []
    for url in (empty_database_url, database_url):
        async with connected(url) as connection:
            found.append([tuple(row) for row in await connection.fetch(_CONTENTS)])
    assert found[0] == found[1]


async def test_statements_one_by_one(empty_database_url: str) -> None:
    """Each part that is sent alone is exactly one statement of the file."""
    parts = schema.statements_of(schema.schema_path())
    async with connected(empty_database_url) as connection, connection.transaction():
        for part in parts:
            await connection.fetch(part)  # prepared, and so refused if it were two
        await connection.execute("DROP SCHEMA userlog CASCADE")
    assert len((await _psql(empty_database_url)).splitlines()) == len(parts)


def test_packages_with_statements() -> None:
    """No file of named statements is left out of the next test."""
    root = schema.schema_path().parent
    files = [path for name in ROOTS for path in (root / name).rglob("queries.sql")]
    packages = {".".join(path.parent.relative_to(root).parts) for path in files}
    assert packages == set(PACKAGES)


@pytest.mark.parametrize("name", all_statements())
async def test_statement_prepares(looked_at: Stack, name: str) -> None:
    """Every named statement fits the schema."""
    async with looked_at.pool.acquire() as connection:
        await connection.prepare(statement(name))


async def test_partition_leads(looked_at: Stack) -> None:
    """Every index of a table with a column `partition` begins with it, but for those of arrays."""
    found = await looked_at.pool.fetch(
        """
        SELECT c.relname, i.indexrelid::regclass::text AS index, a.attname AS first
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'userlog'::regnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        JOIN pg_class x ON x.oid = i.indexrelid
        JOIN pg_am m ON m.oid = x.relam AND m.amname <> 'gin'
        WHERE EXISTS (SELECT FROM pg_attribute p
            WHERE p.attrelid = c.oid AND p.attname = 'partition')
        """
    )
    assert {row["relname"] for row in found} >= {"events", "streams", "users", "history_g1"}
    assert [row["index"] for row in found if row["first"] != "partition"] == []


BREACHES = {
    "a table of users without partition": """
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind IN ('r', 'p')
            AND c.relname NOT IN ('meta', 'active_generation', 'generations', 'tokens',
                'keys')
            AND NOT EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = 'partition')""",
    "partition of another type": """
        SELECT attrelid::regclass::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'userlog'::regnamespace AND c.relkind IN ('r', 'p')
            AND attname = 'partition' AND (atttypid <> 'integer'::regtype OR NOT attnotnull)""",
    "a number that is not from the head": """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'userlog'::regnamespace AND relkind = 'S'""",
    "a generated or identity column": """
        SELECT attrelid::regclass::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'userlog'::regnamespace AND (attidentity <> '' OR attgenerated <> '')
    """,
    "a foreign key": """
        SELECT conname FROM pg_constraint
        WHERE connamespace = 'userlog'::regnamespace AND contype = 'f'""",
    "a trigger but the guard's": """
        SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'userlog'::regnamespace AND NOT tgisinternal
            AND tgname NOT IN ('events_are_immutable', 'events_are_not_emptied')""",
    "a right on single columns": """
        SELECT attrelid::regclass::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'userlog'::regnamespace AND attacl IS NOT NULL""",
    "a function that is not of one partition": """
        SELECT proname FROM pg_proc
        WHERE pronamespace = 'userlog'::regnamespace AND proname <> 'refuse_change'
            AND proname NOT LIKE 'token_%' AND proname NOT LIKE 'key_%'
            AND (proargnames[1] <> 'in_partition' OR proargtypes[0] <> 'integer'::regtype)""",
    "a statement of a function without partition": """
        SELECT proname FROM pg_proc
        WHERE pronamespace = 'userlog'::regnamespace AND proname <> 'refuse_change'
            AND proname NOT LIKE 'token_%' AND proname NOT LIKE 'key_%'
            AND regexp_count(prosrc, '(FROM|UPDATE) userlog\\.\\w+ [a-z]\\M', 1, 'i')
                <> regexp_count(prosrc, '[a-z]\\.partition = in_partition', 1, 'i')""",
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_what_a_distributed_database_needs(looked_at: Stack, breach: str) -> None:
    """Nothing in the catalogue keeps log, heads and read models from being spread by partition."""
    found = await looked_at.admin.fetch(BREACHES[breach])
    assert [tuple(row) for row in found] == []
