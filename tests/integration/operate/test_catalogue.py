"""A database that is not as its version made it: refused by name, or warned of."""

from __future__ import annotations

import re

import pytest

from eventstore.errors import SchemaError
from eventstore.postgres import catalogue, schema
from tests.support.database import connected
from tests.support.older import OLDEST, SCHEMAS, install

NOW = schema.SCHEMA_VERSION


@pytest.mark.parametrize("number", range(OLDEST, NOW + 1))
async def test_catalogues(empty_database_url: str, number: int) -> None:
    """What a database is compared with is what the version installs."""
    async with connected(empty_database_url) as admin:
        if number == NOW:
            await schema.install(admin)
        else:
            assert (SCHEMAS / f"{number}-schema.sql").is_file()
            await install(empty_database_url, number, 1)
        assert await catalogue.read(admin) == catalogue.expected(number)


_REPLACED = """
CREATE OR REPLACE FUNCTION userlog.token_revoke(in_id text) RETURNS text
LANGUAGE sql AS 'SELECT in_id'
"""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DROP FUNCTION userlog.token_used", "function token_used is missing or different"),
        (_REPLACED, "function token_revoke is missing or different"),
        (
            "ALTER TABLE userlog.streams DROP COLUMN erased_at",
            "column streams.erased_at is missing",
        ),
        ("ALTER TABLE userlog.tokens ALTER name TYPE varchar", "column tokens.name has another"),
        ("DROP TABLE userlog.parked", "table parked is missing"),
    ],
)
async def test_a_damaged_schema_is_refused(database_url: str, change: str, problem: str) -> None:
    """What is missing or different from its version is named, and nothing is served."""
    async with connected(database_url) as admin:
        await admin.execute(change)
        with pytest.raises(SchemaError, match=re.escape(problem)):
            await schema.check(admin)


async def test_more_than_the_schema_is_no_error(database_url: str) -> None:
    """Tables, columns and functions beyond it are named for a warning."""
    async with connected(database_url) as admin:
        await admin.execute("CREATE TABLE userlog.mine (a integer)")
        await admin.execute("ALTER TABLE userlog.tokens ADD COLUMN mine integer")
        await admin.execute("CREATE FUNCTION userlog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        assert (await schema.check(admin)).additional == ["mine", "tokens.mine", "mine()"]
