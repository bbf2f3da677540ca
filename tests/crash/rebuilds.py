"""Kill a rebuild with SIGKILL at random moments, and see that it goes on without doing work twice.

    make crash-test REBUILD_KILLS=10

A log of many users is rebuilt in small shards; the process is killed with its workers again and
again, then left alone. What was done before a kill must still be done after it, at the same time
as before; the result must be equal to what the projector has made, and to what the log says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from run import CrashError

from api.config.secret_values import key_bytes
from eventstore import read
from eventstore.log import EventLog
from eventstore.postgres import embedded, sessions
from eventstore.postgres.pool import open_owner_pool
from eventstore.sealing.keys import MasterKey
from projections.project.projector import catch_up
from projections.rebuild import generations, shards
from tests.support.deliveries import delivery
from tests.support.events import only

SHARDS = 60
PATIENCE_S = 120
DONE = """
SELECT shard, done_at, events, users FROM userlog.rebuild_shards
WHERE generation = $1 AND done_at IS NOT NULL ORDER BY shard
"""

# The proof and the flip wait for the checkpoint of the generation that answers.
HOLD = "SELECT FROM userlog.checkpoints WHERE generation = 1 FOR UPDATE"


async def fill(url: str, key: bytes, users: int, events_each: int) -> None:
    """Append events of users, and project them."""
    pool = await open_owner_pool(url, size=4, timeout_s=60)
    log = await EventLog.open(pool, MasterKey(key))
    for n in range(events_each):
        for start in range(0, users, 1_000):
            bodies = (_delivery(user, n) for user in range(start, min(users, start + 1_000)))
            await log.append([only(body) for body in bodies])
    await catch_up(log, 5_000)
    await pool.close()


def _delivery(user: int, n: int) -> bytes:
    return delivery(f"u{user}", "update", n * 7 % 5, first_name=f"{n}", active=n % 3 > 0)


class Rebuilds:
    """A rebuild that is killed over and over."""

    def __init__(self, folder: Path, connection: Any) -> None:
        self._environ = {**os.environ, "USERLOG_DATA_DIR": str(folder)}
        self._connection = connection
        self._done: dict[int, Any] = {}
        self.generation = 0
        self.phases: list[str] = []

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the command, as the leader of a group of its own."""
        command = (sys.executable, "-m", "api", "rebuild", *options)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=self._environ, start_new_session=True, **pipes)

    async def kill_once(self, chance: random.Random, left: int) -> None:
        """Let a rebuild do some shards and then a little more, and kill it."""
        process = self.start("--workers", "2")
        missing = SHARDS - len(self._done)
        wanted = len(self._done) + min(missing, chance.randint(0, 2 * missing // left))
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and len(await self.look()) < wanted:
            if time.monotonic() > deadline:
                raise CrashError("the rebuild does not go on")
            await asyncio.sleep(0.01)  # how often one looks at its rows: another process's
        await asyncio.sleep(chance.random() / 2)  # no signal to wait for: any moment is meant
        phase = await self._connection.fetchval(
            "SELECT phase FROM userlog.generations WHERE generation = $1", self.generation
        )
        self.phases.append(str(phase))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def look(self) -> dict[int, Any]:
        """Read which shards are done; what was done before must be as it was."""
        rows = await self._connection.fetch(DONE, self.generation)
        found = {row["shard"]: tuple(row) for row in rows}
        for shard, row in self._done.items():
            if found.get(shard) != row:
                raise CrashError(f"shard {shard} was done, and is not, or was done again")
        self._done = found
        return found

    async def finish(self) -> dict[str, Any]:
        """Let it come to its end, and prove the result."""
        out, _ = self.start("--workers", "2", "--json").communicate()
        await self.look()
        done: dict[str, Any] = msgspec.json.decode(out)
        if self.start("--verify-only").wait():
            raise CrashError("the result is not what the log says")
        return done


async def crash(folder: Path, key: bytes, args: argparse.Namespace) -> None:
    """Run, and report."""
    chance = random.Random(args.seed)
    async with embedded.running(folder, notice=lambda _: None) as url:
        await fill(url, key, args.users, args.events_each)
        connection = await asyncpg.connect(url)
        await sessions.set_up_owner(connection)
        rebuilds = Rebuilds(folder, connection)
        events = args.users * args.events_each
        plan = shards.plan(await read.heads(connection), -(-events // SHARDS), 2)
        rebuilds.generation = await generations.create(connection, plan)
        async with connection.transaction():  # whoever is to be killed must not come to the end
            await connection.execute(HOLD)
            for left in range(args.kills, 0, -1):
                await rebuilds.kill_once(chance, left)
                print(f"killed while {rebuilds.phases[-1]}, {len(await rebuilds.look())} done")
        await check(connection, rebuilds, await rebuilds.finish(), events, args.users)
        await connection.close()


async def check(
    connection: Any, rebuilds: Rebuilds, done: dict[str, Any], events: int, users: int
) -> None:
    """Compare counts: every shard loaded once, every row there once."""
    found = await rebuilds.look()
    loaded = (sum(row[2] for row in found.values()), sum(row[3] for row in found.values()))
    rows = await connection.fetchval(
        "SELECT count(*) FROM userlog.history WHERE generation = $1", rebuilds.generation
    )
    if (*loaded, rows, len(found)) != (events, users, events, SHARDS):
        raise CrashError(f"loaded {loaded}, {rows} rows, {len(found)} shards")
    if done["proof"]["differing"] or not done["resumed"]:
        raise CrashError("not equal to what the projector has made, or not gone on with")
    print(f"{len(rebuilds.phases)} kills; {len(found)} shards, {events} events, each loaded once;")
    print(f"equal to the projector's in {done['proof']['rows']} rows, and to the log")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--users", type=int, default=6_000)
    parser.add_argument("--events-each", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    args = parser.parse_args()
    print(f"seed {args.seed}")
    with tempfile.TemporaryDirectory(prefix="userlog-crash-") as folder:
        environ = {**os.environ, "USERLOG_DATA_DIR": folder}
        command = (sys.executable, "-m", "api", "init")  # makes the database and the key
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        path = Path(folder, "master-key")
        key = key_bytes(path.read_text().strip(), str(path))
        asyncio.run(crash(Path(folder), key, args))


if __name__ == "__main__":
    main()
