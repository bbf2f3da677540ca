"""Each attack of the load test, for a moment: no honest delivery is refused, no work is done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.deliveries import APP, delivery

if TYPE_CHECKING:
    from tests.support.processes import Home, Service

SECONDS = 0.25
HONEST = 5
# Between two honest deliveries; several times as many a second as those of the load test.
PAUSE_S = 0.005


@pytest.mark.timeout(300)
async def test_honest_deliveries_are_taken(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """While each attack goes on, deliveries get their 200; of the attacks nothing is in the log."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "load"))
    import attackers  # noqa: PLC0415 - scripts, which find what they import beside them
    import honest  # noqa: PLC0415
    from attack_kinds import ATTACKS, Target  # noqa: PLC0415
    from started import child  # noqa: PLC0415

    async with home.serving() as service, child(attackers) as many:
        await honest.prepare(service, home.secret)
        token, tenant = [
            (await home.json("token", "create", "--name", "t", *options))["token"]
            for options in ((), ("--application", APP))
        ]
        port = int(service.base.rpartition(":")[2])
        for attack in ATTACKS.values():
            before = await events(service)
            target = Target(port, home.secret, token, tenant, before)
            seconds = max(SECONDS, 2 / attack.rate)
            order = attackers.Order(attack.name, target, seconds, paced=True)
            attacking = asyncio.create_task(many.obey(order, attackers.Report))
            sent = 0
            while sent < HONEST or not attacking.done():
                body = delivery("honest", at_ms=before + sent)
                assert await service.post(body, home.secret) == 200, attack.name
                sent += 1
                await asyncio.wait({attacking}, timeout=PAUSE_S)
            report = await attacking
            print(attack.name, report, sent, flush=True)
            assert report.begun > 0
            assert report.statuses.keys() <= attack.answers, attack.name
            assert await events(service) == before + sent, attack.name


async def events(service: Service) -> int:
    """How many events are in the log, in its one partition."""
    (head,) = (await service.get("/v1/status")).body["heads"]
    return int(head["position"].partition(":")[2])
