"""Send deliveries as bad as can be to a running service, and count what became of them.

    python tests/load/fuzz.py --bodies 100000

Every body is signed, so each must be answered with 200: accepted, known already, ignored, or in
quarantine. At the end the counts must agree with the log and the quarantine, and every question
about every user must have an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
from yarl import URL

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))
from bodies import Bodies
from run import SECRET, Crash

from api.webhook.verify import HEADER, sign

CONNECTIONS = 16
PAGE = 1_000
PATIENCE_S = 600
_DOTS = {".", ".."}


class FuzzError(Exception):
    """Something that must hold does not; the seed and number of a body say which it was."""


class Fuzz:
    """Sends and counts."""

    def __init__(self, base: str, token: str, secret: str, database: str, seed: int) -> None:
        self._base, self._secret, self._seed = base, secret, seed
        self._database = database
        self._headers = {"Authorization": f"Bearer {token}"}
        self.counts: Counter[str] = Counter()
        self._positions: set[str] = set()

    async def run(self, count: int) -> None:
        """Send so many bodies, then check everything."""
        async with aiohttp.ClientSession(headers=self._headers) as session:
            numbers = iter(enumerate(itertools.islice(self._bodies(), count)))
            await asyncio.gather(*(self._send(session, numbers) for _ in range(CONNECTIONS)))
            await self._check(session)

    def _bodies(self) -> Any:
        bodies = Bodies(self._seed)
        while True:
            yield bodies.next()

    async def _send(self, session: aiohttp.ClientSession, numbers: Any) -> None:
        url = f"{self._base}/webhooks/fynd"
        for number, body in numbers:
            headers = {HEADER: sign(body, self._secret)}
            async with session.post(url, data=body, headers=headers) as response:
                answer = await response.json()
            if response.status != 200:
                raise FuzzError(f"body {number} of seed {self._seed}: {response.status}")
            found = {name: n for name, n in answer.items() if name != "positions"}
            if not any(found.values()):
                raise FuzzError(f"body {number} of seed {self._seed}: nothing became of it")
            self.counts.update(found)
            self.counts["deliveries"] += 1
            self._positions.update(answer["positions"])

    async def _check(self, session: aiohttp.ClientSession) -> None:
        status = await self._level(session)
        (head,) = status["heads"]
        accepted = self.counts["accepted"]
        if head["position"] != f"0:{accepted}" or len(self._positions) != accepted:
            raise FuzzError(f"{accepted} accepted, {len(self._positions)} positions, head {head}")
        if status["parked"]:
            raise FuzzError(f"{status['parked']} users are parked: accepted, but not readable")
        await self._count_rows(accepted)
        users = await self._feed(session, accepted)
        self.counts["users"] = len(users)
        for path in users:
            for question in ("", "/history?limit=1000", "?known_at=2030-01-01T00:00:00Z"):
                url = URL(f"{self._base}{path}{question}", encoded=True)
                async with session.get(url) as response:
                    await response.read()
                    if response.status not in {200, 404} or (
                        response.status == 404 and not question
                    ):
                        raise FuzzError(f"{response.status} for {path}{question}")

    async def _count_rows(self, accepted: int) -> None:
        connection = await asyncpg.connect(self._database)
        try:
            events = await connection.fetchval("SELECT count(*) FROM userlog.events")
            kept = await connection.fetchval("SELECT sum(times_seen) FROM userlog.quarantine")
        finally:
            await connection.close()
        if (events, kept or 0) != (accepted, self.counts["quarantined"]):
            raise FuzzError(f"{events} events in the log, {kept} in quarantine")

    async def _level(self, session: aiohttp.ClientSession) -> Any:
        """Wait until everything is projected."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with session.get(f"{self._base}/v1/status") as response:
                    status: dict[str, Any] = await response.json()
                if not any(one["lag_positions"] for one in status["projections"]):
                    return status
                await asyncio.sleep(0.05)

    async def _feed(self, session: aiohttp.ClientSession, expected: int) -> set[str]:
        """Read the whole log; return the path of every user in it."""
        users: set[str] = set()
        after, seen = "0:0", 0
        while seen < expected:
            params = {"after": after, "limit": str(PAGE)}
            async with session.get(f"{self._base}/v1/events", params=params) as response:
                if response.status != 200:
                    raise FuzzError(f"{response.status} for a page of the feed")
                page = await response.json()
            if not page["events"] or any("dataerror" in event for event in page["events"]):
                raise FuzzError("the feed ends early, or has an event that can't be read")
            seen, after = seen + len(page["events"]), page["next"]
            for event in page["events"]:
                path = f"{event['source']}/users/{quote(event['subject'], safe='')}"
                if not _DOTS.isdisjoint(path.split("/")):
                    continue  # no path can name them: clients and servers resolve them away
                users.add(path)
        return users


def main() -> None:
    """Fuzz a service of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="userlog-fuzz-") as folder:
        service = Crash(Path(folder), arguments.seed)
        service.start()
        try:
            token = (Path(folder) / "data" / "api-token").read_text().strip()
            about = (service.base, token, SECRET, service.database())
            fuzz = Fuzz(*about, arguments.seed)
            asyncio.run(fuzz.run(arguments.bodies))
        finally:
            service.stop()
    print(dict(fuzz.counts))


if __name__ == "__main__":
    main()
