"""Take PostgreSQL away from a running service, under load, and see how it bears it.

    python tests/crash/outages.py --outages 5 --seconds 20

The sender of the crash test delivers all the time, and askers ask for users, histories and the
status. Only 200 (404 for a user not heard of yet) and 503 may be seen, none later than the
deadline, and without a restart of the service all that was acknowledged is there afterwards, once.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
from run import Crash, CrashError

from api.config.settings import Settings

ASKERS = 8
# So many answers show how it is: some seconds of asking.
ENOUGH = 500
PATHS = (
    "/v1/status",
    "/v1/applications/{0}/users/{1:024d}",
    "/v1/applications/{0}/users/{1:024d}/history",
    "/v1/applications/{0}/users/{1:024d}?known_at=2030-01-01T00:00:00Z",
    "/health/ready",
)
DEADLINE_S = Settings().request_timeout_s
# For the way there and back, on a machine on which everything else runs too.
SLACK_S = 1.0


class Outages(Crash):
    """A service whose database goes away and comes back, again and again."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        super().__init__(folder, seed)
        self._seconds = seconds
        self.statuses: Counter[int] = Counter()
        self._answer = asyncio.Condition()
        self.slowest_s = 0.0
        self.back_s: list[float] = []

    async def disturb(self) -> None:
        """Stop PostgreSQL for some seconds while everybody goes on asking."""
        asking = [asyncio.create_task(self._ask(n)) for n in range(ASKERS)]
        await self._answered(200, ENOUGH)
        with (self._data / "postgres.start.lock").open("wb") as lock:
            # Whoever holds it keeps the service from starting PostgreSQL again.
            fcntl.flock(lock, fcntl.LOCK_EX)
            postmaster = int((self._data / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGINT)
            away = time.monotonic() + self._seconds
            await self._answered(503, ENOUGH)
            await asyncio.sleep(away - time.monotonic())  # the fault itself: so long it is away
        began = time.monotonic()
        await self._answered(200, 1)
        self.back_s.append(time.monotonic() - began)
        await self._answered(200, ENOUGH)
        for one in asking:
            one.cancel()
        for found in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(found, Exception):
                raise found

    async def _answered(self, status: int, more: int) -> None:
        """Wait until so many more answers of a status have come; CrashError after a minute."""
        enough = self.statuses[status] + more
        try:
            async with asyncio.timeout(60), self._answer:
                await self._answer.wait_for(lambda: self.statuses[status] >= enough)
        except TimeoutError:
            raise CrashError(f"no {more} answers of {status} within a minute") from None

    async def _ask(self, number: int) -> None:
        chance = random.Random(number)
        token = (self._data / "api-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(self.base) as session:
            while True:
                path = chance.choice(PATHS).format("a" * 24, chance.randrange(300))
                asked = session.get(path, headers=headers)
                began = time.monotonic()
                async with asked as response:
                    await response.read()
                    took_s = time.monotonic() - began
                    if response.status not in {200, 404, 503}:
                        raise CrashError(f"{response.status} was answered")
                    self.statuses[200 if response.status == 404 else response.status] += 1
                    async with self._answer:
                        self._answer.notify_all()
                self.slowest_s = max(self.slowest_s, took_s)
                if took_s > DEADLINE_S + SLACK_S:
                    raise CrashError(f"an answer took {took_s:.1f} s")
                await asyncio.sleep(0.01)  # how often one asks; nothing is waited for


def main() -> None:
    """Run as many outages as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="userlog-outages-") as folder:
        outages = Outages(Path(folder), random.randrange(1_000_000), arguments.seconds)
        outages.start()
        try:
            asyncio.run(outages.rounds(arguments.outages))
        finally:
            outages.stop()
        back = ", ".join(f"{one:.1f}" for one in outages.back_s)
        print(
            f"{arguments.outages} outages of {arguments.seconds:g} s: {outages.counts};"
            f" askers saw {dict(outages.statuses)};"
            f" slowest answer {outages.slowest_s:.2f} s; back after {back} s"
        )


if __name__ == "__main__":
    main()
