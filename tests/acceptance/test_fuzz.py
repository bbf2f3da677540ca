"""Deliveries as bad as can be: each is answered with 200, and none is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from tests.support.processes import Home

BODIES = 500
SEED = 6


async def test_every_delivery_becomes_something(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted, known already, ignored or in quarantine: the counts agree with the log."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "load"))
    from fuzz import Fuzz  # noqa: PLC0415 - a script, which finds what it imports beside it

    async with home.serving() as service:
        fuzz = Fuzz(service.base, home.token, home.secret, home.database_url(), SEED)
        await fuzz.run(BODIES)
    outcomes = ("accepted", "duplicates", "ignored", "quarantined", "users")
    assert all(fuzz.counts[name] for name in outcomes)
