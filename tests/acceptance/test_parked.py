"""What an operator does when an event of a user can't be read, command by command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.deliveries import APP, SAMPLE_USER

if TYPE_CHECKING:
    from tests.support.processes import Home

USER_PATH = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
SAMPLES = sorted(
    str(path) for path in (Path(__file__).parents[2] / "api" / "webhook" / "samples").iterdir()
)
ALTER = "payload || '\\x00'"
RESTORE = "substr(payload, 1, octet_length(payload) - 1)"


async def _change(home: Home, payload: str) -> None:
    """Change the first event with all rights and the guard off."""
    async with home.database() as database:
        await database.execute("SET session_replication_role = replica")
        await database.execute(f"UPDATE userlog.events SET payload = {payload} WHERE position = 1")


async def test_from_the_alarm_to_the_repair(home: Home) -> None:
    """The user is listed, stays parked as long as nothing is mended, and then is complete."""
    async with home.serving() as service:
        create, update, delete = SAMPLES
        await home.send(service, update)
        assert (await service.get(f"{USER_PATH}?min_position=0:1")).status == 200
        await _change(home, ALTER)
        await home.send(service, create)  # which belongs before the first: both are read again
        user = (await service.get(f"{USER_PATH}?min_position=0:2")).body
        assert (user["stale"]["position"], user["stale"]["reason"]) == ("0:1", "seal-broken")
        await home.send(service, delete)

        assert (await home.json("status"))["parked"] == 1
        assert "userlog parked" in (await home.run("status")).out
        (listed,) = await home.alone().json("parked")
        assert (listed["position"], listed["user_id"]) == ("0:1", SAMPLE_USER)
        assert "0:1" in (await home.run("parked")).out
        for command in (("user",), ("history",)):
            assert "event 0:1" in (await home.run(*command, APP, SAMPLE_USER)).out
        for which in (("--parked",), ("--user", f"{APP}/{SAMPLE_USER}")):
            refused = await home.run("rebuild", *which)
            assert refused.code == 1
            assert re.fullmatch(r"userlog: event 0:1 can't be read \(seal-broken\)\n", refused.err)

        await _change(home, RESTORE)
        assert await home.json("rebuild", "--parked") == {"repaired": 1, "parked": []}
        assert (await home.run("rebuild", "--parked")).out == "no user is parked\n"
        assert (await home.json("status"))["parked"] == 0
        user = (await service.get(f"{USER_PATH}?min_position=0:3")).body
        assert (user["lifecycle"], "stale" in user) == ("deleted", False)
        kinds = [
            e["event_type"] for e in (await service.get(f"{USER_PATH}/history")).body["entries"]
        ]
        assert kinds == ["user.created", "user.updated", "user.deleted"]


async def test_wrong_usage_and_numbers(home: Home) -> None:
    """A user is named by both ids; the numbers of an application are printed by day."""
    async with home.serving() as service:
        await home.send(service)
        assert (await service.get(f"{USER_PATH}?min_position=0:3")).status == 200
        repaired = await home.run("rebuild", "--user", f"{APP}/{SAMPLE_USER}")
        assert (repaired.code, repaired.out) == (0, "repaired: 1\n")
        for user, code in ((SAMPLE_USER, 2), (f"{APP}/", 2), (f"{APP}/nobody", 1)):
            assert (await home.run("rebuild", "--user", user)).code == code
        days = ("--from", "2023-06-13", "--to", "2023-06-14")
        found = await home.json("stats", APP, *days)
        assert [day["created"] for day in found["days"]] == [1, 0]
        shown = await home.run("stats", APP, *days)
        assert "2023-06-14" in shown.out
        assert (await home.run("stats", "other")).code == 1
        assert (await home.run("stats", APP, "--to", "tomorrow")).code == 2
        assert (await home.run("stats", APP, "--from", "2999-01-01")).code == 2
