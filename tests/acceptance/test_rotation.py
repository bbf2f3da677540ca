"""Another master key while services run: with both keys, with the old one, one started late."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from eventstore.sealing.keys import MasterKey
from tests.conftest import MASTER_KEY
from tests.support.deliveries import delivery
from tests.support.waiting import meanwhile, until

if TYPE_CHECKING:
    from tests.support.processes import Home, Service

NEW = b"another key, for tests only 32 b"
NEW_TEXT, OLD_TEXT = (base64.b64encode(key).decode() for key in (NEW, MASTER_KEY))


def at(home: Home, name: str, **environ: str) -> Home:
    """The same userlog, as another process is configured."""
    return replace(home.where(**environ), folder=home.folder.with_name(name))


async def test_the_previous_key_of_another(home: Home, made_home: Home) -> None:
    """Where the keys are set, a previous one in the data directory is some other userlog's."""
    assert (await made_home.run("rotate-master-key", "--prepare")).code == 0
    kept = made_home.folder / "master-key.previous"
    async with home.serving() as service:
        await home.send(service)
    both = replace(home, folder=made_home.folder).where(
        USERLOG_MASTER_KEY=NEW_TEXT, USERLOG_PREVIOUS_MASTER_KEY=OLD_TEXT
    )
    assert (await both.run("rotate-master-key")).code == 0
    assert kept.exists()
    assert (await made_home.run("rotate-master-key")).code == 0
    assert not kept.exists()


async def test_under_load(home: Home) -> None:
    """Each acknowledged event opens with the new key alone, and who has both keys refuses none."""
    both = at(home, "both", USERLOG_MASTER_KEY=NEW_TEXT, USERLOG_PREVIOUS_MASTER_KEY=OLD_TEXT)
    new = at(home, "new", USERLOG_MASTER_KEY=NEW_TEXT)
    acknowledged: dict[str, set[str]] = {"both": set(), "old": set()}
    answers: dict[str, set[int]] = {"both": set(), "old": set()}
    stop = asyncio.Event()

    async def load(service: Service, name: str) -> None:
        number = 0
        while not stop.is_set():
            user = f"{name}-{number}"
            status = await service.post(delivery(user), home.secret)
            answers[name].add(status)
            if status == 200:
                acknowledged[name].add(user)
                number += 1

    async def loads(*services: tuple[Service, str]) -> None:
        async with asyncio.TaskGroup() as group:
            for service, name in services:
                group.create_task(load(service, name))

    async with home.serving("--no-projector") as left, both.serving() as follows:
        assert await left.post(delivery("first"), home.secret) == 200  # so it is the old one's log
        async with meanwhile(loads((left, "old"), (follows, "both"))) as running:
            await until(lambda: min(map(len, acknowledged.values())) > 20)
            assert (await both.run("rotate-master-key")).code == 0
            before = len(acknowledged["both"])
            await until(lambda: 503 in answers["old"] and len(acknowledged["both"]) > before + 20)
            late = await home.run("serve", "--port", "0")
            stop.set()
            await running
        assert answers == {"both": {200}, "old": {200, 503}}
        ready = await left.get("/health/ready")
        assert ready.status == 503
        assert MasterKey(NEW).new.hex() in ready.body["detail"]
        assert "set USERLOG_MASTER_KEY" in ready.body["detail"]
        assert (await follows.get("/health/ready")).status == 200
        assert late.code == 1
        assert "is written with the master key" in late.err
    lines = (await new.run("export")).out.splitlines()
    found = {msgspec.json.decode(line)["payload"][0]["user"]["user_id"] for line in lines}
    assert acknowledged["both"] | acknowledged["old"] <= found
    assert (await new.run("verify")).code == 0
    assert (await new.json("parked")) == []
