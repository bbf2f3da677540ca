"""What `userlog verify` says while a service goes on: nothing that is not so."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from eventstore import signed_heads
from eventstore.errors import MasterKeyMovedError
from eventstore.postgres.pool import open_owner_pool
from eventstore.sealing.keys import MasterKey
from eventstore.sealing.rotation import rotate
from eventstore.verify.whole import verify
from tests.support.deliveries import delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventstore.verify.finding import Finding
    from eventstore.verify.whole import Part
    from tests.conftest import Stack

OLD, NEW = b"a master key for tests only 32 b", b"another key, for tests only 32 b"


async def test_signed_since_it_began(stack: Stack) -> None:
    """A head that was appended and signed meanwhile holds."""
    await stack.ingest.deliver(delivery("u"))

    async def run(_parts: Sequence[Part], _counted: Callable[[int], None]) -> list[Finding]:
        await stack.ingest.deliver(delivery("u", "update", 1))
        await signed_heads.sign(stack.log, 1, timedelta(0))
        return []

    assert await verify(stack.log, progress=lambda _done, _total: None, run=run) == []


async def test_rotated_since_it_began(stack: Stack) -> None:
    """Under a master key that it does not hold nothing opens, which is no fault of the log."""
    await stack.ingest.deliver(delivery("u"))
    stack.log.keyring.forget_all()
    owner = await open_owner_pool(stack.url, size=3, timeout_s=30)
    await rotate(owner, 1, MasterKey(NEW, OLD), lambda _: None)
    await owner.close()
    with pytest.raises(MasterKeyMovedError):
        await verify(stack.log, progress=lambda _done, _total: None)
