"""Users found by what is known of them, through a real log and projector."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from projections.project.projector import catch_up
from projections.query.search import Page, Wanted, parse_page_key, search
from tests.conftest import Stack
from tests.support.database import statement
from tests.support.deliveries import APP, T0, delivery
from tests.support.events import BY
from tests.support.parameters import MANY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from projections.query.views import Users
    from tests.support.server import Server

PHONE: dict[str, Any] = {"phone_numbers": [{"phone": "5550001", "country_code": 91}]}
MS = timedelta(milliseconds=1)


def email(value: str) -> dict[str, Any]:
    """Fields with an e-mail."""
    return {"emails": [{"email": value}]}


async def _tell(stack: Stack, *bodies: bytes) -> None:
    for body in bodies:
        await stack.ingest.deliver(body)
    await catch_up(stack.log, 100)


async def _ids(stack: Stack, application: str = APP, **wanted: Any) -> list[str]:
    found = await search(stack.log, stack.pool, Wanted(application, **wanted))
    assert found.next is None
    return [user.user_id for user in found.users]


async def test_by_what_is_known_now(stack: Stack) -> None:
    """A user is found by the e-mail, phone and username they have now, and by none they had."""
    await _tell(
        stack,
        delivery("u", at_ms=1, **email("old@b.c"), **PHONE, username="Uma"),
        delivery("v", at_ms=2, **email("v@b.c"), **PHONE),
        delivery("u", at_ms=3, **email("new@b.c")),
        delivery("u", at_ms=4, gender="x"),
        delivery("u", at_ms=2, **email("late@b.c")),
    )
    assert await _ids(stack, values={"email": "new@b.c"}) == ["u"]
    for gone in ("old@b.c", "late@b.c"):
        assert await _ids(stack, values={"email": gone}) == []
    assert await _ids(stack, values={"phone": "+91 5550001"}) == ["u", "v"]
    assert await _ids(stack, values={"username": "uma"}) == ["u"]
    assert await _ids(stack, values={"phone": "5550001", "email": "v@b.c"}) == ["v"]
    assert await _ids(stack, values={"phone": "5550001", "email": "x@b.c"}) == []
    assert await _ids(stack, "other", values={"email": "new@b.c"}) == []
    assert await _ids(stack, values={"phone": "none"}) == []


async def test_deleted_registered_again_and_erased(stack: Stack) -> None:
    """A deleted user is still found beside who took their e-mail; an erased one is not."""
    await _tell(
        stack,
        delivery("u", at_ms=1, **email("a@b.c")),
        delivery("u", kind="delete", at_ms=2),
        delivery("v", kind="create", at_ms=3, **email("a@b.c")),
    )
    wanted = {"email": "a@b.c"}
    assert await _ids(stack, values=wanted) == ["v", "u"]
    assert await _ids(stack, values=wanted, lifecycle="deleted") == ["u"]
    assert await _ids(stack, values=wanted, lifecycle="blocked") == []
    await stack.log.erase(stack.log.stream(APP, "u"), BY)
    assert await _ids(stack, values=wanted) == ["v"]
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.terms") == 1


@MANY
async def test_lists(stack: Stack) -> None:
    """Users are listed by their last change, newest first, of one lifecycle or since a time."""
    bodies = [
        delivery(f"u{n}", kind=("update", "delete")[n % 3 == 0], at_ms=n, active=n % 3 == 1)
        for n in range(12)
    ]
    await _tell(stack, *bodies, delivery("u5", at_ms=50, active=False))
    order = ["u5", *(f"u{n}" for n in range(11, -1, -1) if n != 5)]
    assert await _ids(stack) == order
    for lifecycle, rest in (("deleted", 0), ("active", 1), ("blocked", 2)):
        kept = [user for user in order if int(user[1:]) % 3 == rest]
        assert await _ids(stack, lifecycle=lifecycle) == kept
    assert await _ids(stack, changed_since=T0 + 10 * MS) == ["u5", "u11", "u10"]
    assert await _ids(stack, "other") == []


@pytest.fixture(scope="module", params=[1, 4], ids="{}-partitions".format)
async def seven(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Stack]:
    """Seven users, some of whom changed at the same moment."""
    async with server.database(request.param) as url:
        stack = await Stack.open(url)
        await _tell(stack, *(delivery(f"u{n}", at_ms=n // 3, **email("a@b.c")) for n in range(7)))
        yield stack
        await stack.close()


@pytest.mark.parametrize("values", [{}, {"email": "a@b.c"}], ids=["listed", "found"])
@pytest.mark.parametrize("limit", [1, 3, 7, 8])
async def test_pages(seven: Stack, values: dict[Any, str], limit: int) -> None:
    """Following `next` visits everybody once, also those who changed at the same moment."""
    pages: list[Users] = []
    after = None
    while not pages or (pages[-1].next and len(pages) < 9):
        wanted = Wanted(APP, values)
        pages.append(await search(seven.log, seven.pool, wanted, Page(limit, after)))
        after = parse_page_key(pages[-1].next) if pages[-1].next else None
    assert [len(page.users) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-7 // limit)
    visited = [user.user_id for page in pages for user in page.users]
    assert sorted(visited) == [f"u{n}" for n in range(7)]
    times = [user.as_of.occurred_at for page in pages for user in page.users]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("text", ["", "1", "x-y", "1-" + "0" * 31, "9" * 15 + "-" + "0" * 32])
def test_wrong_marks(text: str) -> None:
    """What no page gave is refused."""
    with pytest.raises(ValueError, match="unchanged"):
        parse_page_key(text)


async def test_values_of_any_kind(stack: Stack) -> None:
    """No value that a user can have stops the projector or keeps them from being found."""
    values = ["x" * 100_000 + "@b", "a\0@b", "\N{SNOWMAN}@b", " "]
    bodies = [delivery(f"u{n}", at_ms=n, **email(value)) for n, value in enumerate(values)]
    await _tell(stack, *bodies)
    for n, value in enumerate(values[:3]):
        assert await _ids(stack, values={"email": value}) == [f"u{n}"]
    assert len(await _ids(stack)) == 4


_PREPARE = {
    "users_found": "integer[], integer, uuid[], text, smallint[], timestamptz, timestamptz,"
    " integer, bigint, int, bigint",
    "users_listed": "integer[], text, smallint[], timestamptz, timestamptz, integer, bigint, int,"
    " bigint",
}
_ARGUMENTS = {
    "users_found": f"ARRAY[0], 1, ARRAY[md5('7')::uuid], '{APP}', ",
    "users_listed": f"ARRAY[0], '{APP}', ",
}
_REST = "ARRAY[1, 2, 3], '-infinity', 'infinity', 1, 0, 100, 4000000"


async def _plan(stack: Stack, name: str, options: str = "ANALYZE, COSTS OFF, TIMING OFF") -> str:
    """Return how a session of the service looks for users."""
    async with stack.pool.acquire() as connection:
        await connection.execute(f"PREPARE asked ({_PREPARE[name]}) AS {statement(name)}")
        explain = f"EXPLAIN ({options}) EXECUTE asked"
        rows = await connection.fetch(f"{explain} ({_ARGUMENTS[name]}{_REST})")
        await connection.execute("DEALLOCATE asked")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("name", ["users_found", "users_listed"])
async def test_nothing_is_compiled(looked_at: Stack, name: str) -> None:
    """Where PostgreSQL has a compiler, it is not used for a look-up (docs/planner.md, 1)."""
    assert "JIT" not in await _plan(looked_at, name, "COSTS ON")


async def test_plans(stack: Stack) -> None:
    """Both lists look only at what they return, however many users there are."""
    await stack.admin.execute(
        """
        INSERT INTO userlog.users (partition, generation, stream_id, application_id, user_id,
            lifecycle, sealed, tie_break, position, kind, occurred_at, recorded_at)
        SELECT 0, 1, gen_random_uuid(), $1, n::text, 1, '', '', n, 1,
            now() - n * interval '1 minute', now()
        FROM generate_series(1, 20000) n
        """,
        APP,
    )
    await stack.admin.execute(
        "INSERT INTO userlog.streams (partition, stream_id, application_id, user_id, key_id)"
        " SELECT 0, stream_id, application_id, user_id, 1 FROM userlog.users"
    )
    await stack.admin.execute(
        "INSERT INTO userlog.terms SELECT partition, generation, stream_id,"
        " ARRAY[md5(user_id)::uuid], '{}', '{}' FROM userlog.users"
    )
    await stack.admin.execute("ANALYZE userlog.users, userlog.terms")
    for name, count in (("users_found", 1), ("users_listed", 100)):
        plan = await _plan(stack, name)
        assert max(int(seen) for seen in re.findall(r"rows=(\d+)", plan)) == count, plan
        assert "Removed by Filter" not in plan, plan
