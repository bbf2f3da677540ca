"""Which requests have a line in the log, through a real socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.deliveries import APP, SAMPLES
from tests.support.serving import serving

if TYPE_CHECKING:
    from tests.support.lines import Lines

USER = f"/v1/applications/{APP}/users/nobody"
TIMES = 20


async def test_what_strangers_cause_is_one_line(lines: Lines, database_url: str) -> None:
    """However often somebody is refused without being known, the log has a line for many."""
    async with serving(database_url, body_bytes_max=2_000) as client:
        statuses: list[int] = []
        for _ in range(TIMES):
            answers = await asyncio.gather(
                client.post(SAMPLES[0], "wrong"),
                client.post(b"x" * 2_001),
                client.call("GET", USER),
                client.get("/no/such/path"),
                client.call("POST", "/health/live"),
            )
            statuses += [answer.status for answer in answers]
    assert statuses == [401, 413, 401, 404, 405] * TIMES
    assert lines.all().count("request") == 5


async def test_what_a_reader_is_refused_has_its_line(lines: Lines, database_url: str) -> None:
    """Whoever has a token finds each refusal in the log by its id."""
    async with serving(database_url) as client:
        for _ in range(TIMES):
            assert (await client.get(USER)).status == 404
    assert lines.all().count("request") == TIMES
