from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore.errors import LogError, UnavailableError
from eventstore.events import Position
from projections.fold.poison import PoisonError
from projections.project.projector import Projector, catch_up, project_batch
from projections.prove.scrubber import Scrubber, scrub
from projections.query.lag import lags
from projections.query.users import Page
from projections.rebuild import generations, progress, shards
from projections.rebuild.generations import RebuildRunningError
from projections.rebuild.rebuild import (
    NoFormerGenerationError,
    Plan,
    drop_others,
    prove_all,
    rebuild,
    roll_back,
)
from projections.subprocesses import WorkerError
from projections.tables import Generation
from tests.conftest import Stack
from tests.support.database import begin_again, blocked, connected, erase, holding, kill, tables
from tests.support.deliveries import APP, delivery
from tests.support.events import BY, event
from tests.support.parameters import MANY
from tests.support.processes import command_line
from tests.support.rows import rewrite_changes, rewrite_state
from tests.support.waiting import PATIENCE_S, meanwhile, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from projections.prove.differences import Difference
    from tests.support.lines import Lines
    from tests.support.server import Server

    OpenStack = Callable[..., Awaitable[Stack]]


PLAN = Plan(shard_events_max=30)
_MADE = """
SELECT regexp_replace(what, '_g\\d+|_\\d?(?=key|idx)', '', 'g') FROM (
    SELECT concat_ws(' ', c.relname, attname, format_type(atttypid, atttypmod), attnotnull) AS what
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE attnum > 0 AND c.relkind = 'r'
        AND c.relnamespace = 'userlog'::regnamespace AND c.relname ~ $1
    UNION ALL SELECT concat_ws(' ', c.relname, pg_get_constraintdef(k.oid), k.coninhcount)
    FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid WHERE c.relname ~ $1
    UNION ALL SELECT concat_ws(' ', tablename, regexp_replace(indexdef, 'INDEX \\S+', ''))
    FROM pg_indexes WHERE tablename ~ $1
) made ORDER BY 1
"""
CHECKPOINTS = "SELECT 1 FROM userlog.checkpoints WHERE generation = 1 FOR UPDATE"


async def _fill(url: str) -> None:
    stack = await Stack.open(url)
    bodies = [
        delivery(f"u{user}", at_ms=n * 37 % 11, count=n, first_name=f"{n}")
        for n in range(5)
        for user in range(20)
    ]
    await asyncio.gather(*(stack.ingest.deliver(body) for body in bodies))
    await catch_up(stack.log, 100)
    await stack.close()


@pytest.fixture
async def database_url(server: Server, partitions: int) -> AsyncIterator[str]:
    """The URL of a new database with 20 users of 5 events each, which are projected."""
    async with server.filled(("rebuilt", partitions), _fill, partitions) as url:
        yield url


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[Stack]:
    """An open userlog without events."""
    async with server.database(1) as url:
        stack = await Stack.open(url)
        yield stack
        await stack.close()


async def _damage(stack: Stack) -> None:
    await stack.admin.execute("UPDATE userlog.users SET sealed = 'x', lifecycle = 2")
    await stack.admin.execute("UPDATE userlog.history SET sealed = 'x'")


async def _generations(stack: Stack) -> list[str]:
    """Name everything that belongs to a generation."""
    found = await stack.pool.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'userlog'::regnamespace"
        " AND relkind = 'r' AND relname ~ '_g[0-9]+$'"
        " UNION SELECT DISTINCT 'checkpoints ' || generation FROM userlog.checkpoints"
        " UNION SELECT state || ' ' || generation FROM userlog.generations"
        " UNION SELECT 'active ' || generation FROM userlog.active_generation ORDER BY 1"
    )
    return [row["relname"] for row in found]


def _only(active: int, *others: int) -> list[str]:
    tables = ("history_g{}", "terms_g{}", "users_g{}")
    names = (*tables, "checkpoints {}", "live {}")
    every = [name.format(number) for name in names for number in (active, *others)]
    return sorted([f"active {active}", *every])


@MANY
@pytest.mark.parametrize("workers", [1, 2], ids="{}-workers".format)
async def test_repairs(stack: Stack, workers: int) -> None:
    """A rebuild in shards makes the same rows again, whatever was damaged."""
    before = await tables(stack.pool)
    await _damage(stack)
    await stack.admin.execute("DELETE FROM userlog.history WHERE position % 2 = 0")
    done = await rebuild(stack.source, Plan(workers, shard_events_max=7))
    assert await tables(stack.pool) == before
    assert (done.generation, done.resumed, done.events, done.users) == (2, False, 100, 20)
    of_users = [one for one in done.proof.first if one.table != "numbers"]
    assert len(of_users) == 20 + 100
    assert len(of_users) < done.proof.differing, "the numbers are not those of what is left either"
    assert await _generations(stack) == _only(2, 1)
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.rebuild_shards") > 14
    done = await rebuild(stack.source, PLAN)
    assert (done.generation, done.proof.differing) == (3, 0)
    assert (done.proof.users, done.proof.rows) == (20, sum(map(len, before)))
    assert await tables(stack.pool) == before
    assert await _generations(stack) == _only(3, 2)


async def test_same_tables(stack: Stack) -> None:
    """What a rebuild makes has the columns, checks and indexes of what the schema made."""
    await rebuild(stack.source, PLAN)
    made: list[list[tuple[str, ...]]] = []
    for number in (1, 2):
        rows = await stack.pool.fetch(_MADE, f"_g{number}$")
        made.append([tuple(row.values()) for row in rows])
    assert made[0] == made[1]
    assert len(made[0]) > 40


async def test_ready_before_they_count(stack: Stack) -> None:
    """Tables have their indexes and statistics before they become a part of the read models."""
    parent = "LOCK TABLE userlog.users IN SHARE UPDATE EXCLUSIVE MODE"
    async with holding(stack.url, parent):
        building = asyncio.create_task(rebuild(stack.source, PLAN))
        await blocked(stack.admin)
        ready = await stack.admin.fetch(
            "SELECT tablename FROM pg_indexes WHERE tablename ~ '_g2$' ORDER BY indexname"
        )
        known = await stack.admin.fetch(
            "SELECT DISTINCT tablename FROM pg_stats WHERE tablename ~ '_g2$' ORDER BY tablename"
        )
        stage = await progress.read(stack.pool)
    assert [row[0] for row in ready] == [
        *("history_g2", "terms_g2", "terms_g2", "users_g2", "users_g2"),
    ]
    assert [row[0] for row in known] == ["history_g2", "terms_g2", "users_g2"]
    assert stage
    assert stage.phase == "indexing"
    await building


async def test_far_behind(empty: Stack) -> None:
    """A generation that is far behind is not waited for: the new one is proven by the log."""
    for n in range(60):
        await empty.ingest.deliver(delivery(f"u{n % 20}", at_ms=n * 7 % 11, first_name=f"{n}"))
    assert await project_batch(empty.log, Generation(0, 1), 10)
    done = await rebuild(empty.source, Plan(shard_events_max=30, behind_max=49))
    assert (done.proof.users, done.proof.differing) == (20, 0)
    assert await _generations(empty) == _only(2)
    found = await tables(empty.pool)
    await begin_again(empty)
    await catch_up(empty.log, 7)
    assert await tables(empty.pool) == found


async def test_removed_meanwhile(stack: Stack) -> None:
    """A rebuild whose generation another one has removed says so, and lets nothing answer."""
    async with holding(stack.url, CHECKPOINTS):
        building = asyncio.create_task(rebuild(stack.source, PLAN))
        await blocked(stack.admin)
        await stack.admin.execute("DELETE FROM userlog.generations WHERE generation = 2")
    with pytest.raises(LogError, match="generation 2 was removed"):
        await building
    async with connected(stack.url) as connection:
        with pytest.raises(LogError, match="generation 2 was removed"):
            await generations.finish(connection, 2)
    assert "active 1" in await _generations(stack)


async def test_empty(empty: Stack) -> None:
    """An empty log can be rebuilt."""
    assert (await rebuild(empty.source, PLAN)).generation == 2
    assert not any(await tables(empty.pool))
    assert await _generations(empty) == _only(2, 1)


@MANY
async def test_answers_all_the_time(stack: Stack, open_stack: OpenStack) -> None:
    """While rebuilds run, reads find every user, none goes back in time, and appends go on."""
    writer, reader = await open_stack(stack.url), await open_stack(stack.url)
    projector = Projector(writer.log, batch_max=10, poll_s=0.02)
    projector.start()
    streams = [stack.log.stream(APP, f"u{n}") for n in range(20)]
    newest = dict.fromkeys(streams, 0)
    rounds, count = 0, 5
    stopping = asyncio.Event()

    async def read() -> None:
        nonlocal rounds
        while not stopping.is_set():
            for stream in streams:
                found = await reader.read_model.user(stream)
                history = await reader.read_model.history(stream, page=Page("desc", 3))
                assert found
                assert len(history.entries) == 3
                now = msgspec.json.decode(found.state)["extra"]["count"]
                assert now >= newest[stream]
                newest[stream] = now
            rounds += 1

    async def write() -> None:
        nonlocal count
        while not stopping.is_set():
            for n in range(20):
                body = delivery(f"u{n}", at_ms=100 + count, count=count)
                assert (await writer.ingest.deliver(body)).accepted == 1
            count += 1

    async with meanwhile(read()) as reading, meanwhile(write()) as writing:
        for expected in (2, 3):
            seen = rounds
            await until(lambda: rounds >= seen + 2 or reading.done())  # noqa: B023 - called at once
            assert (await rebuild(stack.source, PLAN)).generation == expected
        stopping.set()
        await reading
        await writing
    for head in await stack.log.heads():
        await reader.read_model.wait_for(head.position, PATIENCE_S)
    await projector.stop()
    assert count > 6
    assert await _generations(stack) == _only(3, 2)
    rows = await tables(stack.pool)
    assert len(rows[1]) == 20 * count
    assert not (await rebuild(stack.source, PLAN)).proof.differing
    assert await tables(stack.pool) == rows


async def test_one_at_a_time(stack: Stack) -> None:
    """A second rebuild is refused while one runs, and may run when it has ended."""
    async with holding(stack.url, CHECKPOINTS):
        first = asyncio.create_task(rebuild(stack.source, PLAN))
        await blocked(stack.admin)
        for refused in (rebuild(stack.source, PLAN), roll_back(stack.source)):
            with pytest.raises(RebuildRunningError, match="another rebuild"):
                await refused
        seen = await progress.read(stack.pool)
        assert seen
        assert (seen.phase, seen.shards_done, seen.shards) == ("proving", 4, 4)
        assert (seen.events, seen.events_total, seen.users) == (100, 100, 20)
        assert seen.events_per_s
    assert (await first).generation == 2
    assert await progress.read(stack.pool) is None
    assert (await rebuild(stack.source, PLAN)).generation == 3


@MANY
async def test_shards_are_loaded_once(stack: Stack, open_stack: OpenStack) -> None:
    """Without any other lock than the shards' own, two rebuilds at once load each shard once."""
    one, other = [await open_stack(stack.url, owner=True) for _ in range(2)]
    number = await _begin(one, shard_events_max=5)
    await asyncio.gather(*(shards.load_open(s.log, number) for s in (one, other)))
    done = await rebuild(stack.source, PLAN)
    assert (done.generation, done.resumed, done.proof.differing) == (2, True, 0)
    assert await stack.admin.fetchval("SELECT count(*) FROM userlog.users_g2") == 20


async def _begin(stack: Stack, shard_events_max: int) -> int:
    planned = shards.plan(await stack.log.heads(), shard_events_max, 1)
    async with connected(stack.url) as connection:
        return await generations.create(connection, planned)


async def _stop_before(stack: Stack, *numbers: int) -> None:
    """Rebuild, but for some shards of a few users each."""
    if await progress.read(stack.pool) is None:
        await _begin(stack, shard_events_max=10)
    these = ", ".join(map(str, numbers))
    held = f"SELECT 1 FROM userlog.rebuild_shards WHERE shard IN ({these}) FOR UPDATE"
    async with holding(stack.url, held):
        with pytest.raises(LogError, match="not every shard was loaded"):
            await rebuild(stack.source, Plan(patience_s=0))


async def _shards_done(stack: Stack) -> list[tuple[object, ...]]:
    rows = await stack.pool.fetch(
        "SELECT partition, shard, done_at, events, users FROM userlog.rebuild_shards"
        " WHERE done_at IS NOT NULL ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


def _workers() -> list[int]:
    """The worker processes of this one."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [
        pid for pid in map(int, mine) if "projections.rebuild.worker" in " ".join(command_line(pid))
    ]


async def test_killed_in_a_shard(stack: Stack) -> None:
    """Workers killed between and inside shards lose what was not committed, and nothing else."""
    before = await tables(stack.pool)
    await _stop_before(stack, 3, 7)
    done = await _shards_done(stack)
    assert len(done) == 8
    async with holding(stack.url, "LOCK TABLE userlog.terms_g2 IN EXCLUSIVE MODE"):
        dying = asyncio.create_task(rebuild(stack.source, Plan(workers=2)))
        await blocked(stack.admin, 2)  # users and history of both shards are written
        os.kill(_workers()[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match="signal 9"):
            await dying
        assert _workers() == []
    assert await _shards_done(stack) == done
    assert await tables(stack.pool) == before
    last = await rebuild(stack.source, PLAN)
    assert (last.generation, last.resumed, last.users, last.proof.differing) == (2, True, 20, 0)
    assert [one for one in await _shards_done(stack) if one in done] == done
    assert await tables(stack.pool) == before


async def test_cancelled(stack: Stack) -> None:
    """Ctrl-C ends the workers at once, and the next rebuild goes on."""
    await _begin(stack, shard_events_max=10)
    async with holding(stack.url, "LOCK TABLE userlog.terms_g2 IN EXCLUSIVE MODE"):
        stopping = asyncio.create_task(rebuild(stack.source, Plan(workers=2)))
        await blocked(stack.admin, 2)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert _workers() == []
    assert (await rebuild(stack.source, PLAN)).resumed


@pytest.mark.parametrize("how", ["other code", "--fresh"])
async def test_begins_anew(stack: Stack, how: str) -> None:
    """What another version has begun, or on demand, is dropped and begun again."""
    await _stop_before(stack, 1)
    if how == "other code":
        await stack.admin.execute("UPDATE userlog.generations SET version = '0.0.1/1'")
    done = await rebuild(stack.source, Plan(fresh=how == "--fresh"))
    assert (done.generation, done.resumed) == (2, False)
    assert await _generations(stack) == _only(2, 1)


async def test_killed_before_flip(stack: Stack) -> None:
    """A rebuild that dies when all is built changes no answer, and the next one need not build."""
    before = await tables(stack.pool)
    async with holding(stack.url, CHECKPOINTS) as admin:
        dying = asyncio.create_task(rebuild(stack.source, PLAN))
        await kill(admin, await blocked(admin))
        with pytest.raises(UnavailableError):
            await dying
    assert "building 2" in await _generations(stack)
    assert await tables(stack.pool) == before
    await stack.ingest.deliver(delivery("new"))
    await catch_up(stack.log, 10)
    done = await _shards_done(stack)
    assert (await rebuild(stack.source, PLAN)).proof.differing == 0
    assert await _shards_done(stack) == done
    assert await stack.read_model.user(stack.log.stream(APP, "new"))
    assert await _generations(stack) == _only(2, 1)


@pytest.mark.parametrize("times", [1, 2])
async def test_killed_while_dropping(stack: Stack, times: int) -> None:
    """A rebuild that dies while it removes old tables does not stand in the next one's way."""
    before = await tables(stack.pool)
    await rebuild(stack.source, PLAN)
    async with connected(stack.url) as reader:
        for _ in range(times):
            async with reader.transaction():  # a long look at both generations
                await reader.fetch("SELECT count(*) FROM userlog.users")
                await reader.fetch("SELECT count(*) FROM userlog.history")
                dying = asyncio.create_task(rebuild(stack.source, PLAN))
                await kill(reader, await blocked(reader))
                with pytest.raises(UnavailableError):
                    await dying
    assert await tables(stack.pool) == before
    number = (await rebuild(stack.source, PLAN)).generation
    assert await tables(stack.pool) == before
    assert await _generations(stack) == _only(number, 2)


async def test_erased_while_a_table_is_half_removed(stack: Stack) -> None:
    """An erasure also reaches rows that only a look at the half removed table itself finds."""
    await rebuild(stack.source, PLAN)
    async with connected(stack.url) as reader:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM userlog.users, userlog.history")
            dying = asyncio.create_task(drop_others(stack.source))
            await kill(reader, await blocked(reader))
            with pytest.raises(UnavailableError):
                await dying
        pending = await reader.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhdetachpending"
        )
        assert pending
        stream = stack.log.stream(APP, "u1")
        of_user = "SELECT count(*) FROM {} WHERE stream_id = $1"
        tables = [of_user.format(row["name"]) for row in pending]
        assert all([await reader.fetchval(table, stream.stream_id) for table in tables])

        await stack.log.erase(stream, BY)

        assert not any([await reader.fetchval(table, stream.stream_id) for table in tables])


async def test_long_reader(stack: Stack) -> None:
    """A transaction that reads for long delays nothing but the removal of what it reads."""
    stream = stack.log.stream(APP, "u1")
    async with connected(stack.url) as reader:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM userlog.users, userlog.history")
            assert (await rebuild(stack.source, PLAN)).generation == 2
            dropping = asyncio.create_task(drop_others(stack.source))
            await blocked(reader)
            assert await stack.read_model.user(stream)
            await stack.ingest.deliver(delivery("new"))
            assert await catch_up(stack.log, 10) == 1
        assert await dropping == [1]
    assert await _generations(stack) == _only(2)


async def test_drop(stack: Stack) -> None:
    """Unfinished and former generations can be removed, with all that belongs to them."""
    await rebuild(stack.source, PLAN)
    await _stop_before(stack, 1)
    await stack.admin.execute("CREATE TABLE userlog.users_g9 (LIKE userlog.users)")
    assert await drop_others(stack.source) == [3, 9]
    assert await _generations(stack) == _only(2)
    assert await stack.pool.fetchval("SELECT count(*) FROM userlog.rebuild_shards") == 4
    assert await drop_others(stack.source) == []


@MANY
async def test_roll_back(stack: Stack) -> None:
    """The generation that answered before follows on, and can answer again, up to date."""
    with pytest.raises(NoFormerGenerationError):
        await roll_back(stack.source)
    await rebuild(stack.source, PLAN)
    await _damage(stack)  # in both
    await stack.admin.execute("UPDATE userlog.users SET lifecycle = 3 WHERE generation = 2")
    receipt = await stack.ingest.deliver(delivery("new"))
    where = Generation(Position.parse(receipt.positions[0]).partition, 2)
    assert await project_batch(stack.log, where, 10)  # the other one is behind
    assert await roll_back(stack.source) == 1
    assert {row[4] for row in (await tables(stack.pool))[0]} == {1, 2}
    assert await stack.read_model.user(stack.log.stream(APP, "new")), "it went back in time"
    assert await roll_back(stack.source) == 2
    assert await _generations(stack) == _only(2, 1)


async def test_erased_user(stack: Stack) -> None:
    """A rebuild leaves out an erased user, even one whose events are all from before."""
    await erase(stack, "u3")
    assert (await rebuild(stack.source, PLAN)).users == 19
    assert await stack.read_model.user(stack.log.stream(APP, "u3")) is None
    users, history, *_ = await tables(stack.pool)
    assert (len(users), len(history)) == (19, 95)


async def test_erased_during_rebuild(stack: Stack) -> None:
    """A user who is erased when their shard is loaded already is gone before it answers."""
    await rebuild(stack.source, PLAN)
    await _stop_before(stack, 0)
    ((loaded,),) = await stack.admin.fetch("SELECT min(user_id) FROM userlog.users_g3")
    stream = stack.log.stream(APP, loaded)
    await stack.log.erase(stream, BY)
    done = await rebuild(stack.source, PLAN)
    assert (done.generation, done.resumed, done.proof.differing) == (3, True, 0)
    for table in ("users", "history", "terms"):
        count = f"SELECT count(*) FROM userlog.{table} WHERE stream_id = $1"
        assert await stack.admin.fetchval(count, stream.stream_id) == 0
    assert [len(rows) for rows in (await tables(stack.pool))[:2]] == [19, 95]


async def test_poison_stops(stack: Stack) -> None:
    """An event that can't be read stops a rebuild by name; the old generation goes on answering."""
    before = await tables(stack.pool)
    await stack.log.append([event("v", payload=b"not a delivery")])
    with pytest.raises(PoisonError, match="0:101"):
        await rebuild(stack.source, PLAN)
    with pytest.raises(WorkerError, match="0:101"):
        await rebuild(stack.source, Plan(2, 30, fresh=True))
    assert await tables(stack.pool) == before
    (lag,) = [lag for lag in await lags(stack.pool) if lag.active]
    assert (lag.generation, lag.position, lag.head) == (1, 100, 101)


async def test_appends_meanwhile(stack: Stack) -> None:
    """What is appended while the new generation is proven is in it when it answers."""
    async with holding(stack.url, CHECKPOINTS):
        building = asyncio.create_task(rebuild(stack.source, PLAN))
        await blocked(stack.admin)
        receipt = await stack.ingest.deliver(delivery("new", first_name="N"))
    await building
    await catch_up(stack.log, 10)
    await stack.read_model.wait_for(Position.parse(receipt.positions[0]), 0)
    assert await stack.read_model.user(stack.log.stream(APP, "new"))


async def test_live_behind(stack: Stack) -> None:
    """A projector that stands still does not keep a rebuild from being proven."""
    await asyncio.gather(*(stack.ingest.deliver(delivery(f"v{n}")) for n in range(20)))
    assert (await rebuild(stack.source, PLAN)).proof.users == 40


_WRONG_ENTRY = """
UPDATE userlog.history SET late = NOT late WHERE stream_id = $1 AND position = $2
"""


def _told(found: list[Difference]) -> set[tuple[object, ...]]:
    return {(d.application_id, d.user_id, d.table, d.at, d.what, *d.fields) for d in found}


@MANY
@pytest.mark.parametrize("workers", [1, 2], ids="{}-workers".format)
async def test_differences_are_named(stack: Stack, lines: Lines, workers: int) -> None:
    """Users, rows and fields that are not what the log says are named by every proof, no others."""
    assert not (await prove_all(stack.source, PLAN, _quiet)).differing
    stream, gone = stack.log.stream(APP, "u7"), stack.log.stream(APP, "u9")
    position = await stack.admin.fetchval(
        "SELECT position FROM userlog.history WHERE stream_id = $1 LIMIT 1", stream.stream_id
    )
    await rewrite_state(stack, stack.log.stream(APP, "u3"), lambda f: f.update(first_name="X"))
    await rewrite_changes(stack, stream, position, b"[]")
    for statement, *args in (
        (_WRONG_ENTRY, stream.stream_id, position),
        ("UPDATE userlog.terms SET former = terms WHERE stream_id = $1", stream.stream_id),
        ("DELETE FROM userlog.users WHERE stream_id = $1", gone.stream_id),
    ):
        await stack.admin.execute(statement, *args)
    expected = {
        (APP, "u3", "users", None, "differs", "state.first_name"),
        (APP, "u7", "history", f"{stream.partition}:{position}", "differs", "late", "changes"),
        (APP, "u7", "terms", None, "differs", "former"),
        (APP, "u9", "users", None, "missing"),
    }
    found = await prove_all(stack.source, Plan(workers, 7), _quiet)
    assert (_told(found.first), found.differing, found.users) == (expected, 4, 20)
    scrubber = Scrubber(stack.log, interval_s=60)
    for partition in range(stack.log.partitions):
        scrubber.record(await scrub(stack.log, partition, uuid.UUID(int=0), 20))
    assert scrubber.scrubbed
    assert (scrubber.scrubbed.users_proven, scrubber.scrubbed.differences) == (20, 4)
    said = [await lines.until("read model differs from the log") for _ in range(4)]
    assert {(line["table"], *line["fields"]) for line in said} == {
        (table, *fields) for _, _, table, _, _, *fields in expected
    }
    built = await rebuild(stack.source, PLAN)
    assert _told(built.proof.first) == expected
    assert not (await prove_all(stack.source, PLAN, _quiet)).differing


def _quiet(_done: int, _total: int) -> None:
    return


async def test_surplus(stack: Stack) -> None:
    """Rows of a user of whom the log knows nothing are found."""
    await stack.admin.execute(
        "UPDATE userlog.users SET stream_id = gen_random_uuid(), user_id = 'x' WHERE user_id = 'u3'"
    )
    found = await prove_all(stack.source, PLAN, _quiet)
    assert sorted((d.table, d.what) for d in found.first) == [
        ("users", "missing"),
        ("users", "surplus"),
    ]


async def test_erasure_on_its_way(stack: Stack) -> None:
    """Rows of a user whose erasure is not projected yet may be there or not: no difference."""
    await stack.admin.execute(
        "CREATE TABLE kept AS SELECT * FROM userlog.users WHERE user_id = 'u3'"
    )
    await stack.log.erase(stack.log.stream(APP, "u3"), BY)
    # What a projector writes that has read the user's events just before.
    await stack.admin.execute("INSERT INTO userlog.users SELECT * FROM kept")
    assert not (await prove_all(stack.source, PLAN, _quiet)).differing
    await catch_up(stack.log, 10)
    assert not (await prove_all(stack.source, PLAN, _quiet)).differing
    await stack.admin.execute("INSERT INTO userlog.users SELECT * FROM kept")
    assert (await prove_all(stack.source, PLAN, _quiet)).differing == 1


async def test_scrubber_runs(stack: Stack, lines: Lines) -> None:
    """The scrubber looks by itself, finds damage wherever chance leads it, and stops."""
    await _damage(stack)
    scrubber = Scrubber(stack.log, interval_s=0.001)
    scrubber.start()
    scrubber.start()
    line = await lines.until("read model differs from the log")
    await scrubber.stop()
    await scrubber.stop()
    assert set(line) == {"event", "log_level", "level", "position", "table", "what", "fields"} - {
        "log_level"
    }
    assert scrubber.scrubbed
    assert scrubber.scrubbed.differences
    assert scrubber.scrubbed.last_difference_at
    off = Scrubber(stack.log, interval_s=0)
    off.start()
    assert off.scrubbed is None
