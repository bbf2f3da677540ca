"""All that people do with userlog, by command and over HTTP, from `init` to another master key."""

from __future__ import annotations

import asyncio
import base64
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from tests.conftest import MASTER_KEY
from tests.support.commands import said
from tests.support.deliveries import APP, SAMPLE_USER, T0, delivery

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support.processes import Home, Service

NAME = "अनुष्का"
NEW_KEY = b"another master key of just 32 b."
SAMPLE_PATH, NAME_PATH = (f"/v1/applications/{APP}/users/{user}" for user in (SAMPLE_USER, NAME))
# How many events there are after `use`, and how many more after each `serve_briefly`.
EVENTS, EVENTS_AGAIN = 6, 8
# An evening on which the next day has begun in Kolkata.
_EVENING = timedelta(hours=12)


class Journey(NamedTuple):
    """A userlog that is to be used, by its service's login and by its owner's."""

    service: Home
    owner: Home
    serve: tuple[str, ...] = ()

    async def install(self) -> None:
        """Make what there is on a server."""
        done = await self.owner.run("init")
        assert (done.code, done.out, said(done)) == (0, "schema installed\n", [])

    async def use(self) -> None:
        """Serve, do everything once, and stop."""
        async with self.service.serving(*self.serve) as service:
            await self._deliver(service)
            await self._ask(service)
            await self._use_a_token(service)
            await self._erase(service)
            await self._rebuild(service)
            assert await service.stop(signal.SIGTERM) == 0

    async def serve_briefly(self, number: int) -> None:
        """Take users of this number from several senders at once, project them, and stop."""
        async with self.service.serving(*self.serve) as service:
            bodies = [
                delivery(f"{number}-{i}", "create", first_name=NAME) for i in range(EVENTS_AGAIN)
            ]
            posted = (service.post(body, self.service.secret) for body in bodies)
            assert set(await asyncio.gather(*posted)) == {200}
            last = (await self.service.json("status"))["heads"][0]["position"]
            path = f"/v1/applications/{APP}/users/{number}-0"
            assert (await service.get(f"{path}?min_position={last}")).status == 200
            assert await service.stop(signal.SIGTERM) == 0

    async def _deliver(self, service: Service) -> None:
        """Send what the platform sends, and another user, who is changed a minute later."""
        at_ms = _EVENING // timedelta(milliseconds=1)
        files = [self.service.folder.with_suffix(suffix) for suffix in (".1.json", ".2.json")]
        files[0].write_bytes(delivery(NAME, "create", at_ms, first_name="A", active=True))
        files[1].write_bytes(delivery(NAME, "update", at_ms + 60_000, first_name=NAME, active=True))
        sent = await self.service.send(service)
        sent += await self.service.send(service, *map(str, files))
        positions = [one["answer"]["positions"] for one in sent]
        assert positions == [["0:1"], ["0:2"], ["0:3"], ["0:4"], ["0:5"]]

    async def _ask(self, service: Service) -> None:
        user = await service.get(f"{NAME_PATH}?min_position=0:5")
        assert (user.status, user.body["state"]["first_name"]) == (200, NAME)
        occurred = T0 + _EVENING + timedelta(minutes=1)
        assert user.body["as_of"]["occurred_at"] == _written(occurred)
        assert await self.service.json("user", APP, NAME) == user.body
        assert (await service.get(SAMPLE_PATH)).body["lifecycle"] == "deleted"

        history = await service.get(f"{NAME_PATH}/history")
        assert [entry["position"] for entry in history.body["entries"]] == ["0:4", "0:5"]
        assert await self.service.json("history", APP, NAME) == history.body

        then = f"valid_at={_written(occurred - timedelta(seconds=1))}"
        was = await service.get(f"{NAME_PATH}?{then}")
        assert was.body["state"]["first_name"] == "A"
        assert await self.service.json("user", APP, NAME, f"--{then.replace('_', '-')}") == was.body
        assert (await service.get(f"{SAMPLE_PATH}?valid_at=2023-06-13T09:48:46Z")).status == 404

        day = f"{T0:%Y-%m-%d}"
        stats = await service.get(f"/v1/applications/{APP}/stats?from={day}&to={day}")
        (numbers,) = stats.body["days"]
        assert (numbers["created"], numbers["deleted"], numbers["active"]) == (2, 1, 1)
        feed = await service.get("/v1/events?limit=10")
        assert [event["id"] for event in feed.body["events"]] == [f"0:{n}" for n in range(1, 6)]
        status = await self.service.json("status")
        assert [head["position"] for head in status["heads"]] == ["0:5"]
        assert (status["parked"], status["quarantined"]) == (0, 0)

    async def _use_a_token(self, service: Service) -> None:
        """A request that waits ends when its token is revoked."""
        token = (await self.owner.json("token", "create", "--name", "crm"))["token"]
        assert (await service.get(NAME_PATH, token)).status == 200
        (listed,) = await self.service.json("token", "list")
        waiting = asyncio.create_task(service.get("/v1/events?after=0:5&wait_s=60", token))
        assert (await self.service.run("token", "revoke", listed["id"])).code == 0
        assert (await waiting).status == 401

    async def _erase(self, service: Service) -> None:
        done = await self.service.run("erase", "--yes", APP, SAMPLE_USER)
        assert done.code == 0, done.err
        assert (await service.get(f"{SAMPLE_PATH}?min_position=0:6")).status == 410
        done = await self.service.run("user", APP, SAMPLE_USER)
        assert (done.code, len(said(done))) == (1, 1)

    async def _rebuild(self, service: Service) -> None:
        before = (await service.get(NAME_PATH)).body
        done = await self.owner.json("rebuild", "--workers", "1")
        assert (done["generation"], done["events"], done["proof"]["differing"]) == (2, 6, 0)
        assert (await service.get(NAME_PATH)).body == before
        assert (await service.get(SAMPLE_PATH)).status == 410

    async def verify_and_rotate(self, events: int) -> None:
        """The log is whole, with another master key."""
        verified = f"verified: {events} events\n"
        new = base64.b64encode(NEW_KEY).decode()
        both = {
            "USERLOG_MASTER_KEY": new,
            "USERLOG_PREVIOUS_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        }
        done = await self.owner.where(**both).run("rotate-master-key")
        assert (done.code, done.err) == (0, "")
        assert (await self.service.where(USERLOG_MASTER_KEY=new).run("verify")).out == verified


def _written(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"
