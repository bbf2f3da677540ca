"""Rotation of the master key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore.errors import WrongKeyError
from eventstore.log import EventLog
from eventstore.postgres.pool import open_owner_pool
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.rotation import rotate
from eventstore.verify import verify
from tests.support.deliveries import delivery

if TYPE_CHECKING:
    from tests.conftest import Stack

OLD, NEW = b"a master key for tests only 32 b", b"another key, for tests only 32 b"


@pytest.mark.parametrize("partitions", [1, 4], indirect=True)
async def test_every_key_is_wrapped_again_and_no_event_touched(stack: Stack) -> None:
    """Afterwards the new master key opens everything alone, the old one nothing."""
    for number in range(20):
        await stack.ingest.deliver(delivery(f"u{number}", "create", application_id="app"))
    await stack.ingest.deliver(b"not json")
    await stack.log.erase(stack.log.stream("app", "u3"))
    events = await stack.pool.fetch("SELECT * FROM userlog.events ORDER BY partition, position")
    owner = await open_owner_pool(stack.url, size=2, timeout_s=30)
    try:
        both = MasterKey(NEW, OLD)
        assert await rotate(owner, stack.log.partitions, both, lambda _: None) == 20
        assert await rotate(owner, stack.log.partitions, both, lambda _: None) == 0
        after = await stack.pool.fetch("SELECT * FROM userlog.events ORDER BY partition, position")
        assert after == events
        log = await EventLog.open(owner, MasterKey(NEW))
        assert await verify(log, notes=[], progress=lambda *_: None) == []
        with pytest.raises(WrongKeyError):
            await EventLog.open(owner, MasterKey(OLD))
    finally:
        await owner.close()
