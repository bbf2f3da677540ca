"""Kill projectors with SIGKILL, over and over, under load; see each event projected exactly once.

    make crash-test KILLS=20

Two processes project what a third one takes from the sender. A projector is killed when one is in
the middle of a batch; the other, or if both were killed the next, must go on from there. In the
end the read models must be what the oracle folds: a batch that was lost would be missing from the
histories, one that was projected twice would be counted twice in the stats.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
from run import Crash, CrashError

PATIENCE_S = 60
# How often both are killed at once.
BOTH = 0.5
MOVED_ON = 100
BUSY = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name LIKE 'userlog %' AND backend_xid IS NOT NULL AND query NOT LIKE '%append%'
"""


class Projectors(Crash):
    """A run in which one process serves and two others project."""

    command = ("serve", "--no-projector")
    # Who appends is not killed here, and a reader without pauses takes half of the processors.
    reader_pause_s = 0.05

    def __init__(self, folder: Path, seed: int, kills: int, connections: int) -> None:
        super().__init__(folder, seed, connections)
        self._kills = kills
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.kills = {"projector SIGKILL": 0}

    def start(self) -> None:
        """Start the service, then the projectors."""
        super().start()
        for name in range(2):
            self._project(name)

    def stop(self) -> None:
        """Stop all three."""
        for one in self._running.values():
            one.terminate()
            if one.wait():
                raise CrashError(f"a projector ended with {one.returncode}")
        super().stop()

    def _project(self, name: int) -> None:
        command = [sys.executable, "-m", "api", "project"]
        with (self.folder / f"projector-{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(command, env=self.environ, stderr=log)

    async def disturb(self) -> None:
        """Kill one or both of them as often as asked for, each time in the middle of a batch."""
        connection = await asyncpg.connect(self.database())
        for _ in range(self._kills):
            async with asyncio.timeout(PATIENCE_S):
                await _until_projecting(connection)
                before = await _checkpoint(connection)
                killed = self._kill_some()
                if len(killed) == len(self._running):
                    self._project(killed.pop())
                while await _checkpoint(connection) <= before + MOVED_ON:
                    await connection.execute("SELECT pg_sleep(0.02)")
            for name in killed:
                self._project(name)
        await connection.close()

    def _kill_some(self) -> list[int]:
        both = self.random.random() < BOTH
        victims = [0, 1] if both else [self.random.randrange(2)]
        for name in victims:
            self._running[name].send_signal(signal.SIGKILL)
        for name in victims:
            self._running[name].wait()
            self.kills["projector SIGKILL"] += 1
        return victims


async def _until_projecting(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Return when a projector is in the middle of a batch."""
    while not await connection.fetchval(BUSY):
        await connection.execute("SELECT pg_sleep(0.001)")


async def _checkpoint(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    position: int = await connection.fetchval("SELECT position FROM userlog.checkpoints")
    return position


def main() -> None:
    """Kill as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--connections", type=int, default=16, help="what the load comes on")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="userlog-crash-") as folder:
        crash = Projectors(Path(folder), arguments.seed, arguments.kills, arguments.connections)
        crash.start()
        try:
            asyncio.run(crash.rounds(1))
        finally:
            crash.stop()
        print(f"passed; kills: {crash.kills}; {crash.counts}")


if __name__ == "__main__":
    main()
