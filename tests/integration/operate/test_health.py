"""What load balancers ask without a token costs the same however many ask."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from api.config.settings import Settings
from api.endpoints.health import HealthEndpoints
from api.observe.metrics import Metrics
from eventstore.errors import UnavailableError
from eventstore.postgres import schema

if TYPE_CHECKING:
    from eventstore.postgres.sessions import Connection
    from tests.conftest import Stack

MANY = 1_000


async def test_the_database_is_asked_once_for_all(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand who ask at once whether the service is ready are one question."""
    asked = 0
    is_current = schema.is_current

    async def counted(connection: Connection) -> bool:
        nonlocal asked
        asked += 1
        return await is_current(connection)

    monkeypatch.setattr(schema, "is_current", counted)
    metrics = Metrics(stack.log, stack.pool, Settings())
    health = HealthEndpoints(stack.log, metrics)
    request: Any = None
    answers = await asyncio.gather(*(health.ready(request, request) for _ in range(MANY)))
    assert {one.status for one in answers} == {"ok"}
    assert (len(answers), asked) == (MANY, 1)
    await health.close()
    await metrics.close()


async def test_a_database_that_takes_no_writes(stack: Stack) -> None:
    """A standby, or a server that was made read-only when its disk was full: it is not ready."""
    await stack.log.ready()
    async with contextlib.AsyncExitStack() as held:
        for _ in range(stack.pool.get_max_size()):
            connection = await held.enter_async_context(stack.pool.acquire())
            await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(UnavailableError, match="takes no writes"):
        await stack.log.ready()
