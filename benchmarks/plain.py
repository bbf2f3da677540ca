"""A table with a row for each event, as someone would make it by hand."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from common import closed_loop, open_plain_pool
from data import events_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from common import Server

    from eventstore.postgres.pool import Pool

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
COLUMNS = ("application_id", "user_id", "kind", "occurred_at", "payload")
INSERT = f"INSERT INTO plain ({', '.join(COLUMNS)}) VALUES ($1, $2, $3, $4, $5)"  # noqa: S608 - constant


def row(body: bytes) -> tuple[Any, ...]:
    """Make a row of a delivery."""
    (event,) = events_of(body)
    return (event.application_id, event.user_id, event.kind.name, event.occurred_at, body.decode())


def merged(state: dict[str, Any], body: str) -> dict[str, Any]:
    """Fold a delivery onto a user's latest state, as someone would by hand."""
    user: dict[str, Any] = json.loads(body)["payload"][0]["user"]
    return {**state, **user}


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
        found = await closed_loop(partial(_next, plain, row), 64, seconds)
        rates[size] = found.rate
        await pool.close()
    return max(rates, key=rates.__getitem__)


async def _next(plain: Plain, row: Callable[[], tuple[Any, ...]]) -> None:
    await plain.append(row())
