"""`userlog rebuild` and all its options, as an operator uses them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from signal import SIGINT, SIGKILL
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from eventstore import read
from projections.rebuild import generations, shards
from tests.support.database import blocked
from tests.support.deliveries import APP, delivery
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import asyncpg

    from tests.support.processes import Home, Service

    Database: TypeAlias = asyncpg.Connection[asyncpg.Record]

USERS = 20
HOLD = "LOCK TABLE userlog.terms_g2 IN EXCLUSIVE MODE"


@asynccontextmanager
async def _serving(home: Home, *, alone: bool = False) -> AsyncGenerator[Service]:
    """Serve, with some users; the import that brings them may start by itself."""
    file = home.folder.with_suffix(".jsonl")
    file.write_bytes(b"".join(delivery(f"u{n}", first_name="A") + b"\n" for n in range(USERS)))
    async with home.serving() as service:
        assert (await (home.alone() if alone else home).run("import", str(file))).code == 0
        await service.get(f"/v1/applications/{APP}/users/u0?min_position=0:{USERS}")
        yield service


async def test_damage_is_named_and_mended(home: Home) -> None:
    """--verify-only exits 1 and names user, table and field; --diff exits 0; a rebuild mends."""
    async with _serving(home, alone=True), home.database() as database:
        whole = await home.run("rebuild", "--verify-only")
        assert (whole.code, whole.out) == (0, "20 users, 60 rows: all equal to the log\n")
        await database.execute("UPDATE userlog.users SET sealed = 'x' WHERE user_id = 'u3'")
        found = await home.run("rebuild", "--verify-only", "--workers", "1")
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert "userlog: 1 rows differ from the log" in found.err
        for name in (f"{APP}/u3", "users", "sealed"):
            assert name in found.out
        would = await home.json("rebuild", "--diff", "--workers", "1")
        assert (would["differing"], would["first"][0]["fields"]) == (1, ["sealed"])
        done = await home.json("rebuild")
        assert (done["generation"], done["proof"]["differing"], done["users"]) == (2, 1, USERS)
        assert (await home.run("rebuild", "--verify-only", "--workers", "1")).code == 0
        back = await home.run("rebuild", "--rollback")
        assert (back.code, back.out) == (0, "generation 1 answers again\n")
        assert (await home.run("rebuild", "--verify-only", "--workers", "1")).code == 1
        assert (await home.json("rebuild", "--drop")) == {"dropped": [2]}
        alone = await home.run("rebuild", "--rollback")
        assert (alone.code, alone.err.count("\n")) == (1, 1)
        assert (await home.run("rebuild", "--drop", "--diff")).code == 2


async def test_two_at_once(home: Home) -> None:
    """A second rebuild says in one line that one runs, and exits 2; both status show how far."""
    async with _serving(home) as service, home.database() as database, home.database() as holder:
        await _begin(database)
        async with holder.transaction():
            await holder.execute(HOLD)
            first = await home.start("rebuild", "--workers", "2")
            await blocked(database, 2)
            second = await home.run("rebuild")
            assert (second.code, second.err.count("\n")) == (2, 1)
            assert "another rebuild is running" in second.err
            for shown in ((await service.get("/v1/status")).body, await home.json("status")):
                rebuild = shown["rebuild"]
                assert (rebuild["phase"], rebuild["generation"]) == ("building", 2)
                assert (rebuild["shards"], rebuild["events_total"]) == (4, USERS)
        out, err = await first.communicate()
        assert (first.returncode, out.decode().splitlines()[-1]) == (0, "generation 2 answers now")
        assert b"generation 2: building, " in err


async def test_killed(home: Home) -> None:
    """SIGKILL ends the workers too; Ctrl-C says how to go on; the next one goes on."""
    async with _serving(home), home.database() as database, home.database() as holder:
        await _begin(database)
        codes, said = zip(
            *[await _stopped(home, how, database, holder) for how in (SIGKILL, SIGINT)],
            strict=True,
        )
        assert codes == (-SIGKILL, 1)
        hint = "userlog: interrupted; `userlog rebuild` goes on where it stopped"
        assert said[1].splitlines()[-1] == hint
        done = await home.json("rebuild", "--workers", "1")
        assert (done["resumed"], done["users"], done["proof"]["differing"]) == (True, USERS, 0)


async def _stopped(
    home: Home, how: int, database: Database, holder: Database
) -> tuple[int | None, str]:
    """Rebuild, and send a signal when both workers are at a shard; wait for these to end too."""
    async with holder.transaction():
        await holder.execute(HOLD)
        dying = await home._begin("rebuild", "--workers", "2")
        await blocked(database, 2)
        dying.send_signal(how)
        _, err = await dying.communicate()
        await _nobody_waits(database)
    return dying.returncode, err.decode()


async def _begin(database: Database) -> None:
    """Leave a rebuild in four small shards to be gone on with."""
    heads = await read.heads(database)
    await generations.create(database, shards.plan(heads, USERS // 4, 2))


async def _nobody_waits(database: Database) -> None:
    """Wait until the workers' transactions have ended."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    async def none() -> bool:
        await database.execute("SELECT pg_stat_clear_snapshot()")
        return not await database.fetchval(waiting)

    await until(none)


async def test_status_while_one_watches(home: Home) -> None:
    """`status --watch` prints a line for each change and ends well with Ctrl-C; it names scrubs."""
    async with _serving(home) as service:
        watching = await home.start("status", "--watch")
        assert watching.stdout
        line = await watching.stdout.readline()
        assert line.decode() == f"head 0:{USERS}; 0 events to project; 0 in quarantine\n"
        watching.send_signal(SIGINT)
        assert await watching.wait() == 0
        status: dict[str, Any] = (await service.get("/v1/status")).body
        assert status["rebuild"] is None
        assert set(status["scrub"]) == {"users_proven", "differences", "last_difference_at"}
        assert msgspec.json.encode(status["scrub"]["differences"]) == b"0"
