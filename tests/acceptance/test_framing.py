"""Requests that lie about where they end, are none, or ask oddly: none fails, and none leaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.deliveries import delivery

if TYPE_CHECKING:
    from tests.support.processes import Home

GENERATED = 300
SEED = 19


@pytest.mark.timeout(300)
async def test_odd_requests(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """38 kinds by hand, and some generated: no 5xx, nothing of another application, no error."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "load"))
    import framing  # noqa: PLC0415 - a script, which finds what it imports beside it

    home = home.where(USERLOG_LOG_LEVEL="debug", USERLOG_LOG_FORMAT="json", **framing.SETTINGS)
    async with home.serving() as service:
        await framing.prepare(service, home.secret)
        fuzz = framing.Framing(service, await framing.tenant(home), home.secret, SEED)
        assert len(fuzz.kinds) == 38
        await fuzz.by_hand()
        await fuzz.generated(GENERATED)
        assert fuzz.faults == []
        assert {200, 400, 401, 403, 404, 405, 408, 417} <= set(fuzz.statuses)
        assert await service.post(delivery("u", "create"), home.secret) == 200
    assert framing.errors_logged(home) == []
