"""What people would pick instead: a plain table, and the package `eventsourcing`."""

from __future__ import annotations

import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from common import TCP_PORT, Round, closed_loop, open_plain_pool
from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from common import Server

    from eventstore.database import Pool

USERS = 4_000
MANY_CONNECTIONS = 64
TABLE = """
CREATE TABLE plain (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    application_id text NOT NULL,
    user_id text NOT NULL,
    kind text NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    payload json NOT NULL
);
CREATE INDEX plain_user ON plain (application_id, user_id, occurred_at);
"""
INSERT = """
INSERT INTO plain (application_id, user_id, kind, occurred_at, payload) VALUES ($1, $2, $3, $4, $5)
"""
ENVIRONMENT = {
    "PERSISTENCE_MODULE": "eventsourcing.postgres",
    "POSTGRES_DBNAME": "postgres",
    "POSTGRES_PORT": str(TCP_PORT),
    "POSTGRES_USER": "postgres",
    "POSTGRES_PASSWORD": "",
    "POSTGRES_MAX_OVERFLOW": "0",
    "POSTGRES_ENABLE_DB_FUNCTIONS": "yes",
}


class Plain:
    """A table with an index of its key and one of its user, and a pool. One INSERT an event.

    Durable as ours. But ids have gaps and commit in any order, so that who reads on from the last
    id it saw can miss one for ever; the same event twice is two rows; all is stored in the clear.
    """

    def __init__(self, pool: Pool) -> None:
        """The table must be there."""
        self._pool = pool

    async def append(self, row: tuple[Any, ...]) -> None:
        """Insert one event, in a transaction of its own."""
        await self._pool.execute(INSERT, *row)


async def best_pool(server: Server, row: Callable[[], tuple[Any, ...]], seconds: float) -> int:
    """Find the number of connections with which 64 callers insert most."""
    rates: dict[int, float] = {}
    for size in (4, 8, 16, 32, MANY_CONNECTIONS):
        pool = await open_plain_pool(server.url, size)
        plain = Plain(pool)
        found = await closed_loop(lambda one=plain: one.append(row()), 64, seconds)
        rates[size] = found.rate
        await pool.close()
    return max(rates, key=rates.__getitem__)


class EventSourcing:
    """The recorder of `eventsourcing`, with its functions in the database, called from threads.

    Durable as ours, and a conflict of versions is noticed. Its function takes no lock on the table, so that
    notification ids may commit in any order; payloads are in the clear, nothing is chained.
    """

    def __init__(self, server: Server, threads: int) -> None:
        """Open as many connections as there are threads."""
        given = {
            **ENVIRONMENT,
            "POSTGRES_HOST": server.tcp_host,
            "POSTGRES_POOL_SIZE": str(threads),
        }
        self.environment = given
        self._factory = InfrastructureFactory.construct(Environment("bench", given))
        self.recorder = self._factory.application_recorder()
        self._threads = threads
        self._ids = [uuid.uuid4() for _ in range(USERS)]
        self._numbers = itertools.count()

    def append(self, body: bytes) -> None:
        """Insert one event."""
        version, user = divmod(next(self._numbers), USERS)
        event = StoredEvent(self._ids[user], version + 1, "userlog:Delivered", body)
        self.recorder.insert_events([event])

    def round(self, bodies: list[bytes], seconds: float) -> Round:
        """Let every thread append one event after the other."""
        began = time.perf_counter()

        def one(_thread: int) -> list[float]:
            took: list[float] = []
            while bodies and (started := time.perf_counter()) < began + seconds:
                self.append(bodies.pop())
                took.append(time.perf_counter() - started)
            return took

        with ThreadPoolExecutor(self._threads) as threads:
            took = [s for found in threads.map(one, range(self._threads)) for s in found]
        return Round.of(took, time.perf_counter() - began)

    def close(self) -> None:
        """Close its connections."""
        self._factory.close()


def best_threads(server: Server, bodies: list[bytes], seconds: float) -> int:
    """Find the number of threads with which most is appended."""
    rates: dict[int, float] = {}
    for threads in (1, 2, 4, 8, 16):
        rival = EventSourcing(server, threads)
        rates[threads] = rival.round(list(bodies), seconds).rate
        rival.close()
    return max(rates, key=rates.__getitem__)
