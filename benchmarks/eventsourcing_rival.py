"""The package `eventsourcing`, with its database functions, over TCP.

Over a unix socket it hangs when a call sends more than about 2 MB.
"""

from __future__ import annotations

import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from common import TCP_PORT, Round
from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment

if TYPE_CHECKING:
    from common import Server

USERS = 4_000
ENVIRONMENT = {
    "PERSISTENCE_MODULE": "eventsourcing.postgres",
    "POSTGRES_DBNAME": "postgres",
    "POSTGRES_PORT": str(TCP_PORT),
    "POSTGRES_USER": "postgres",
    "POSTGRES_PASSWORD": "",
    "POSTGRES_MAX_OVERFLOW": "0",
    "POSTGRES_ENABLE_DB_FUNCTIONS": "yes",
}


def environment(server: Server, connections: int) -> dict[str, str]:
    """Say where its database is."""
    return {
        **ENVIRONMENT,
        "POSTGRES_HOST": server.tcp_host,
        "POSTGRES_POOL_SIZE": str(connections),
    }


class EventSourcing:
    """The recorder of `eventsourcing`, with its functions in the database, called from threads.

    Durable as ours, and a conflict of versions is noticed. With these functions it does not lock
    the table, so that notification ids may commit in any order; all is stored in the clear.
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
