"""The platform: sends deliveries from a process of its own, until each has been acknowledged.

Told by lines on standard input: `go` starts a round, `stop` ends it; then what is under way is
still sent until it is acknowledged, and a line of counts goes to standard output. Acknowledged
events are appended to a file, one JSON array a line, before they are counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import aiohttp
from oracle import Sent

from api.webhook.verify import HEADER, sign
from tests.support.deliveries import encoded, entry, envelope

USERS = 300
APPLICATIONS = ("a" * 24, "b" * 24)
RETRY_PAUSE_S = 0.05
ANSWER_TIMEOUT_S = 5
# A service that does not take a delivery in this time does not recover.
PATIENCE_S = 120
START_MS = 1_700_000_000_000


class Platform:
    """Makes events and sends them."""

    def __init__(
        self, url: str, secret: str, acknowledged: Path, seed: int, connections: int
    ) -> None:
        self._url, self._secret, self._connections = url, secret, connections
        self._random = random.Random(seed)
        self._file = acknowledged.open("a", encoding="utf-8")
        self._serials = 0
        self._old: list[bytes] = []
        self.stopping = asyncio.Event()
        self.counts = {"acknowledged": 0, "redelivered": 0, "retries": 0, "wrong": 0}

    async def round(self) -> None:
        """Send with all connections until told to stop."""
        self.stopping.clear()
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._connection(session) for _ in range(self._connections)))

    async def _connection(self, session: aiohttp.ClientSession) -> None:
        while not self.stopping.is_set():
            if self._old and self._random.random() < 0.1:
                answer = await self._until_acknowledged(session, self._random.choice(self._old))
                self.counts["redelivered"] += 1
                self.counts["wrong"] += answer["accepted"] != 0 or answer["duplicates"] != 1
                continue
            event, body = self._make()
            answer = await self._until_acknowledged(session, body)
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
            self._old.append(body)
            self.counts["acknowledged"] += 1
            self.counts["wrong"] += len(answer["positions"]) != 1 or answer["quarantined"] != 0

    async def _until_acknowledged(self, session: aiohttp.ClientSession, body: bytes) -> Any:
        headers = {HEADER: sign(body, self._secret)}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with session.post(self._url, data=body, headers=headers) as response:
                        if response.status == 200:
                            return await response.json()
                        self.counts["wrong"] += response.status != 503
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                self.counts["retries"] += 1
                await asyncio.sleep(RETRY_PAUSE_S)

    def _make(self) -> tuple[Sent, bytes]:
        self._serials += 1
        serial = f"{self._serials:012d}"
        rand = self._random
        application_id, number = rand.choice(APPLICATIONS), rand.randrange(USERS)
        user_id = f"{number:024d}"
        kind = rand.choices(("create", "update", "delete"), (2, 7, 1))[0]
        fields: dict[str, Any] = {"rr_id": serial, "first_name": rand.choice("ABCDEFGH")}
        if rand.random() < 0.5:
            fields["active"] = rand.random() < 0.7
        if rand.random() < 0.5:
            fields["gender"] = rand.choice(("male", "female", None))
        # Unique, and often below that of an event sent before: many come late.
        occurred_at = START_MS + (self._serials - rand.randrange(3000)) * 1_000_000 + self._serials
        event_id = f"event-{serial}" if rand.random() < 0.5 else None
        users = [entry(user_id, application_id=application_id, **fields)]
        body = envelope(users, kind, created_timestamp=occurred_at, version="1", id=event_id)
        sent = Sent(serial, application_id, user_id, kind, occurred_at, fields)
        return sent, encoded(body)


async def main(url: str, secret: str, acknowledged: str, seed: str, connections: str) -> None:
    """Follow the orders on standard input."""
    platform = Platform(url, secret, Path(acknowledged), int(seed), int(connections))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (order := await reader.readline()) == b"go\n":
        sending = asyncio.create_task(platform.round())
        await reader.readline()
        platform.stopping.set()
        await sending
        print(json.dumps(platform.counts), flush=True)
    del order


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
