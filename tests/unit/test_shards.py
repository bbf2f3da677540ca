"""Into which shards the log is cut."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from eventstore.events import Position
from eventstore.read import Head
from projections.rebuild.shards import plan


def heads(*events: int) -> list[Head]:
    """Make the heads of partitions with so many events."""
    now = datetime.now(UTC)
    return [Head(Position(n, number), b"", now) for n, number in enumerate(events)]


@pytest.mark.parametrize(
    ("events", "workers", "expected"),
    [
        ([0], 2, [1]),
        ([10], 2, [1]),
        ([11], 1, [2]),
        ([11], 2, [2]),
        ([30], 2, [4]),
        ([40], 2, [4]),
        ([41], 2, [6]),
        ([30, 0], 2, [3, 1]),
        ([30, 5], 4, [4, 2]),
    ],
)
def test_workers_have_equal_shares(events: list[int], workers: int, expected: list[int]) -> None:
    """No shard has more than 10 events, and no worker is left without while others have several."""
    planned = plan(heads(*events), 10, workers)
    count = Counter(shard.users.partition for shard in planned)
    assert [count[n] for n in range(len(events))] == expected
    for shard in planned:
        assert shard.until == events[shard.users.partition]
