from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import SealBrokenError
from eventstore.quarantine import Quarantine
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.own_keys import OwnKeys
from tests.support.deliveries import SAMPLES

if TYPE_CHECKING:
    from tests.conftest import Stack

pytestmark = pytest.mark.parametrize(
    "partitions", [1, 4], indirect=True, ids="{}-partitions".format
)


async def test_counted_not_doubled(stack: Stack) -> None:
    """The same body again is counted, with its newest reason; another body is another row."""
    key = await stack.quarantine.put(b"{", "not-json", "cut off", {"user-agent": "first"})
    again = await stack.quarantine.put(b"{", "no-users", "read better", {"user-agent": "second"})
    assert again == key
    other = await stack.quarantine.put(b"[", "not-json", "cut off")
    assert await stack.quarantine.count() == 2
    newest, older = await stack.quarantine.newest(10)
    assert (newest.id, newest.times_seen) == (other, 1)
    assert (older.id, older.times_seen, older.reason) == (key, 2, "no-users")
    assert (older.headers, newest.headers) == ({"user-agent": "second"}, {})
    assert older.first_seen < older.last_seen <= newest.last_seen


async def test_list_newest_first(stack: Stack) -> None:
    """The list begins with what was seen last, and is as long as asked for."""
    keys = [await stack.quarantine.put(b"%d" % n, "not-json", "") for n in range(6)]
    await stack.quarantine.put(b"2", "not-json", "")
    listed = [one.id for one in await stack.quarantine.newest(4)]
    assert listed == [keys[2], keys[5], keys[4], keys[3]]


async def test_show(stack: Stack) -> None:
    """A delivery in quarantine comes back byte for byte; an id that is not there is None."""
    for body in (SAMPLES[0], b"", bytes(range(256))):
        key = await stack.quarantine.put(body, "not-json", "")
        shown = await stack.quarantine.show(key)
        assert shown
        assert (shown[0].id, shown[1]) == (key, body)
    assert await stack.quarantine.show(uuid.uuid4()) is None


async def test_sealed_at_rest(stack: Stack) -> None:
    """Nothing of a body can be read in the table, nor opened with another master key."""
    key = await stack.quarantine.put(SAMPLES[0], "not-json", "line 3")
    row = await stack.pool.fetchrow("SELECT * FROM userlog.quarantine")
    assert row
    others = (v for v in row.values() if not isinstance(v, datetime))  # a time may be like one
    kept = b"".join(v if isinstance(v, bytes) else str(v).encode() for v in others)
    windows = {SAMPLES[0][start : start + 6] for start in range(len(SAMPLES[0]) - 6)}
    assert not [window for window in windows if window in kept]
    another = OwnKeys(stack.pool, MasterKey(b"another master key of just 32 b."))
    other = Quarantine(stack.pool, stack.log.partitions, another)
    with pytest.raises(SealBrokenError):
        await other.show(key)


async def test_replay(stack: Stack) -> None:
    """What can be read by now goes into the log and leaves the quarantine; the rest stays."""
    good = await stack.quarantine.put(SAMPLES[0], "not-json", "by an older reader")
    bad = await stack.quarantine.put(b"{", "not-json", "cut off")
    replayed = [await stack.ingest.replay(key) for key in (good, bad, uuid.uuid4())]
    assert replayed == [True, False, False]
    (left,) = await stack.quarantine.newest(10)
    assert (left.id, left.times_seen) == (bad, 1)
    assert sum(head.position.number for head in await stack.log.heads()) == 1


async def test_choose_and_remove(stack: Stack) -> None:
    """Ids are found by reason, the oldest first; what is removed is gone, once."""
    first = await stack.quarantine.put(b"{", "not-json", "")
    second = await stack.quarantine.put(b"[", "no-users", "")
    assert await stack.quarantine.keys(None) == [first, second]
    assert await stack.quarantine.keys("no-users") == [second]
    assert [await stack.quarantine.remove(second) for _ in range(2)] == [True, False]
    assert await stack.quarantine.count() == 1
