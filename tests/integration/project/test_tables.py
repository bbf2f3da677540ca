"""How rows of folded users get into the tables of read models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore.sealing.columns import ColumnKey
from projections import tables
from projections.fold.folder import Folded, RowKeys
from projections.fold.history import replay
from projections.fold.search_keys import SearchKey
from projections.project.projector import catch_up
from projections.read_models import USERS
from projections.tables import Generation
from tests.support.deliveries import APP, delivery
from tests.support.events import read

if TYPE_CHECKING:
    from tests.conftest import Stack


@pytest.mark.parametrize("whole", [False, True])
async def test_an_only_row_that_is_no_more(stack: Stack, *, whole: bool) -> None:
    """What a table without a key has of a user goes if the fold makes no row of them."""
    await stack.ingest.deliver(delivery("u", username="u"))
    await catch_up(stack.log, 10)
    stream = stack.log.stream(APP, "u")
    count = "SELECT count(*) FROM userlog.users WHERE stream_id = $1"
    assert await stack.admin.fetchval(count, stream.stream_id) == 1
    state, entries = replay(read(delivery("u", username="u")))
    empty = msgspec.structs.replace(USERS, rows=lambda _folded: iter(()))
    where = Generation(stream.partition, 1)
    keys = RowKeys(ColumnKey(bytes(32)), SearchKey(bytes(32)))
    folded = Folded(stream, state, entries, whole=whole, keys=keys)
    async with stack.admin.acquire() as connection:
        await tables.write([empty], connection, where, [folded])
    assert await stack.admin.fetchval(count, stream.stream_id) == 0
