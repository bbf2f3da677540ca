"""Kill userlog and PostgreSQL at random moments, over and over, and see that nothing is lost.

    make crash-test ROUNDS=50

A sender in its own process plays the platform: it records what was acknowledged, and sends again
what was not. A reader follows the log in the database. In each round something is killed a few
times while they work; then everything is compared by an oracle that shares no code with userlog.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from oracle import Comparison, Sent, compare, fold, steps

from tests.support.processes import environment

HERE = Path(__file__).parent
KILLS = ("service SIGKILL", "service SIGTERM", "postgres SIGQUIT", "postgres SIGKILL")
KILLS_PER_ROUND = 3
KILL_AFTER_S = (0.2, 1.5)
CATCH_UP_S = 60
SECRET = "a-secret-of-the-crash-test"
CONNECTION_LOST = (
    *(OSError, TimeoutError, asyncpg.PostgresError),
    *(asyncpg.InterfaceError, asyncpg.InternalClientError),
)


class CrashError(Exception):
    """Something that must hold does not."""


class Crash:
    """One run: a service on a data directory of its own, its sender and its reader."""

    command: tuple[str, ...] = ("serve",)
    # Between two looks of the reader: none, so that it sees whatever can be seen for a moment.
    reader_pause_s = 0.0

    def __init__(self, folder: Path, seed: int, connections: int = 16) -> None:
        self.random = random.Random(seed)
        self._seed, self._connections = seed, connections
        self.folder = folder
        self._data = folder / "data"
        self.port = _free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._acknowledged = folder / "acknowledged.jsonl"
        self.environ = environment(
            USERLOG_DATA_DIR=str(self._data),
            USERLOG_PORT=str(self.port),
            USERLOG_WEBHOOK_SECRETS=SECRET,
        )
        self._service: subprocess.Popen[str] | None = None
        self._seen: list[bytes] = []
        self.kills = dict.fromkeys(KILLS, 0)
        self.counts: dict[str, int] = {}

    def start(self) -> None:
        """Start the service and wait until it serves."""
        command = [sys.executable, "-m", "api", *self.command]
        with (self.folder / "service.log").open("a") as log:
            self._service = subprocess.Popen(
                command, env=self.environ, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._service.stdout
        if " serves at " not in self._service.stdout.readline():
            raise CrashError(f"the service did not start, see {self.folder}/service.log")

    @property
    def pid(self) -> int:
        """The service's process."""
        assert self._service
        return self._service.pid

    def stop(self) -> None:
        """Stop the service."""
        if self._service:
            self._service.terminate()
            self._service.wait()

    async def rounds(self, count: int) -> None:
        """Play rounds; CrashError at the first thing that does not hold."""
        url = f"{self.base}/webhooks/fynd"
        sender = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "sender.py"), url, SECRET),
            *(str(self._acknowledged), str(self._seed), str(self._connections)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert sender.stdin
        assert sender.stdout
        reader = asyncio.create_task(self._follow())
        try:
            for number in range(1, count + 1):
                sender.stdin.write(b"go\n")
                await self.disturb()
                sender.stdin.write(b"stop\n")
                self.counts = json.loads(await sender.stdout.readline())
                _report(number, self.counts, await self._check())
                if reader.done():
                    await reader
        finally:
            reader.cancel()
            sender.stdin.close()
            await sender.wait()

    async def disturb(self) -> None:
        """Kill something a few times."""
        for _ in range(KILLS_PER_ROUND):
            await asyncio.sleep(self.random.uniform(*KILL_AFTER_S))  # any moment is meant
            await self._kill(self.random.choice(KILLS))

    async def _kill(self, what: str) -> None:
        """Kill something, and start again what a supervisor would."""
        self.kills[what] += 1
        assert self._service
        victim, _, name = what.partition(" ")
        number = getattr(signal, name)
        if victim == "service":
            self._service.send_signal(number)
        else:
            os.kill(
                int((self._data / "postgres" / "postmaster.pid").read_text().split()[0]), number
            )
            await asyncio.sleep(self.random.uniform(0, 0.3))  # any moment is meant
            self._service.terminate()
        await asyncio.to_thread(self._service.wait)
        await asyncio.to_thread(self.start)

    async def _follow(self) -> None:
        """Follow the log as a reader would; what it saw must turn out to be a prefix."""
        while True:
            with suppress(*CONNECTION_LOST):
                connection = await asyncpg.connect(self.database(), timeout=5)
                try:
                    while True:
                        rows = await connection.fetch(
                            "SELECT position, leaf FROM userlog.events WHERE partition = 0"
                            " AND position > $1 ORDER BY position LIMIT 500",
                            len(self._seen),
                        )
                        for row in rows:
                            if row["position"] != len(self._seen) + 1:
                                raise CrashError(f"a reader saw a gap at {len(self._seen) + 1}")
                            self._seen.append(row["leaf"])
                        await asyncio.sleep(self.reader_pause_s)  # how often it reads
                finally:
                    connection.terminate()
            await asyncio.sleep(0.05)  # before it connects to a killed database again

    def database(self) -> str:
        lines = (self._data / "postgres" / "postmaster.pid").read_text().splitlines()
        if len(lines) < 5:
            raise OSError("not started yet")
        return f"postgresql://postgres@/postgres?host={lines[4]}"

    async def _check(self) -> Comparison:
        sent = [Sent(*json.loads(line)) for line in self._acknowledged.read_bytes().splitlines()]
        if self.counts["wrong"]:
            raise CrashError(f"{self.counts['wrong']} answers were wrong")
        exported = await asyncio.to_thread(self.userlog, "export")
        found = compare(sent, exported.splitlines())
        if any(found):
            raise CrashError(f"{found} of {len(sent)}")
        await self._check_positions(len(sent))
        await asyncio.to_thread(self.userlog, "verify")
        await self._check_users(sent)
        return found

    def userlog(self, *arguments: str) -> bytes:
        """Run a command that must succeed; return what it prints."""
        command = [sys.executable, "-m", "api", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, check=False)
        if done.returncode:
            raise CrashError(f"userlog {arguments[0]}: {done.stderr.decode()}")
        return done.stdout

    async def _check_positions(self, expected: int) -> None:
        connection = await asyncpg.connect(self.database())
        try:
            rows = await connection.fetch("SELECT leaf FROM userlog.events ORDER BY position")
            found = await connection.fetchrow(
                "SELECT count(*), max(e.position), (SELECT position FROM userlog.log_head)"
                " FROM userlog.events e"
            )
        finally:
            await connection.close()
        if set(found or ()) != {expected}:
            raise CrashError(f"count, highest position, head: {found}, expected {expected}")
        if [row["leaf"] for row in rows[: len(self._seen)]] != self._seen:
            raise CrashError("what the reader saw is no prefix of the log")

    async def _check_users(self, sent: list[Sent]) -> None:
        token = (self._data / "api-token").read_text().strip()
        base = f"{self.base}/v1/"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            deadline = time.monotonic() + CATCH_UP_S
            while (await _get(session, base + "status"))["projections"][0]["lag_positions"]:
                if time.monotonic() > deadline:
                    raise CrashError("the projector does not catch up")
                await asyncio.sleep(0.05)  # how often one asks another process
            for (application_id, user_id), expected in fold(sent).items():
                path = f"{base}applications/{application_id}/users/{user_id}"
                user = await _get(session, path)
                history = await _get(session, f"{path}/history?limit=1000")
                kinds = [entry["event_type"] for entry in history["entries"]]
                if (user["lifecycle"], user["state"], kinds) != expected:
                    raise CrashError(f"user {user_id} of {application_id} is not as folded")
            for application_id in {event.application_id for event in sent}:
                expected_days = _summed(steps(sent, application_id))
                first, last = min(expected_days), max(expected_days)
                url = f"{base}applications/{application_id}/stats?from={first}&to={last}"
                for day in (await _get(session, url))["days"]:
                    expected_day = expected_days.get(day["date"], (0, 0, 0))
                    found = tuple(day[n] for n in ("created", "deleted", "blocked", "active"))
                    if found[: len(expected_day)] != expected_day:
                        raise CrashError(f"{day} of {application_id} is not as counted")


def _summed(steps: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """Return the days with the number of active users at their end."""
    active = itertools.accumulate(steps[day][3] for day in sorted(steps))
    return {day: (*steps[day][:3], n) for day, n in zip(sorted(steps), active, strict=True)}


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _report(number: int, counts: dict[str, int], found: Comparison) -> None:
    print(
        f"round {number}: {counts['acknowledged']} events acknowledged,"
        f" {counts['redelivered']} redelivered, {counts['retries']} retries;"
        f" lost {found.lost}, doubled {found.doubled}",
        flush=True,
    )


def main() -> None:
    """Run as many rounds as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="userlog-crash-") as folder:
        crash = Crash(Path(folder), arguments.seed)
        crash.start()
        try:
            asyncio.run(crash.rounds(arguments.rounds))
        finally:
            crash.stop()
        print(f"{arguments.rounds} rounds passed; kills: {crash.kills}; {crash.counts}")


if __name__ == "__main__":
    main()
