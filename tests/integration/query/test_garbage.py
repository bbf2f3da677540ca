"""What a request leaves behind for the garbage collector, whose looks hold up all others."""

from __future__ import annotations

import gc

import pytest

from api.webhook.verify import HEADER
from tests.support.deliveries import APP, delivery
from tests.support.serving import AUTH, serving

REQUESTS = 5
# aiohttp's own circle of a path that there is none of has six objects.
OBJECTS_EACH = 10
USER = f"/v1/applications/{APP}/users/u1"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", USER, AUTH, 200),
        ("GET", f"{USER}?min_position=0:1", AUTH, 200),
        ("GET", f"{USER}?min_position=0:99999", AUTH, 503),
        ("GET", f"{USER}?valid_at=x", AUTH, 400),
        ("GET", USER, {}, 401),
        ("GET", f"{USER}x", AUTH, 404),
        ("GET", "/nothing", AUTH, 404),
        ("DELETE", "/v1/events", AUTH, 405),
        ("GET", "/v1/events?after=0:0", AUTH, 200),
        ("POST", "/webhooks/fynd", {}, 401),
        ("POST", "/webhooks/fynd", {HEADER: 64 * "0"}, 401),
        ("POST", "/webhooks/fynd", {"Content-Encoding": "gzip"}, 415),
    ],
)
async def test_no_circles(
    database_url: str, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """What was made for a request goes with its answer, refused or not."""
    async with serving(database_url) as service:
        await service.post(delivery("u1", "create"))
        await service.catch_up()
        await service.call(method, path, headers=headers)  # which makes what is made once
        gc.collect()
        gc.disable()
        try:
            for _ in range(REQUESTS):
                assert (await service.call(method, path, headers=headers)).status == status
            left = gc.collect()
        finally:
            gc.enable()
        assert left < OBJECTS_EACH * REQUESTS
