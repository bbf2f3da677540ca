"""A signed delivery that is more work than the limits allow goes to quarantine as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.deliveries import encoded, entry, envelope, spliced
from tests.support.serving import serving

if TYPE_CHECKING:
    from tests.support.serving import Service

MANY = [entry(str(n)) for n in range(1_200)]
BEYOND = {
    "many users": encoded(envelope(MANY)),
    "users beside a large envelope": encoded({**envelope(MANY[:900]), "x": "x" * 300_000}),
    "nothing, 300,000 times": spliced(envelope("@"), b"[" + b"{}," * 300_000 + b"{}]"),
    "unknown fields": encoded(
        envelope([entry("good"), entry("u", **{f"field {n}": n for n in range(501)})])
    ),
}


async def kept(client: Service) -> list[tuple[str, bytes]]:
    """Return the reason and body of each delivery in quarantine, when nothing is in the log."""
    assert [head.position.number for head in await client.runtime.log.heads()] == [0]
    quarantine = client.runtime.quarantine
    shown = [await quarantine.show(key) for key in await quarantine.keys(None)]
    return [(one[0].reason, one[1]) for one in shown if one]


@pytest.mark.parametrize("name", BEYOND)
async def test_kept_as_a_whole(database_url: str, name: str) -> None:
    """It is acknowledged and kept byte for byte, and none of its users is in the log."""
    async with serving(database_url) as client:
        answer = await client.post(BEYOND[name])
        assert (answer.status, answer.body["accepted"], answer.body["quarantined"]) == (200, 0, 1)
        assert await kept(client) == [("beyond-limits", BEYOND[name])]


async def test_taken_with_a_higher_limit(database_url: str) -> None:
    """Once a limit is raised, what is in quarantine because of it can be taken."""
    body = encoded(envelope(MANY[:5]))
    async with serving(database_url, delivery_entries_max=4) as client:
        assert (await client.post(body)).body["quarantined"] == 1
        (key,) = await client.runtime.quarantine.keys("beyond-limits")
        assert not await client.runtime.ingest.replay(key)
        assert await kept(client) == [("beyond-limits", body)]
    async with serving(database_url, delivery_entries_max=5) as client:
        assert await client.runtime.ingest.replay(key)
        assert [head.position.number for head in await client.runtime.log.heads()] == [5]
        assert await client.runtime.quarantine.keys(None) == []
