"""Small things in little memory."""

from __future__ import annotations

import gc
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from eventstore.sealing.compact_table import CompactTable

WAYS = 16
NAMES = [bytes(16), b"a" * 16, *(f"{n:016}".encode() for n in range(WAYS + 8))]
VALUES = st.sampled_from([bytes(20), b"a" * 20, b"b" * 20])


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES | st.none()), max_size=200))
def test_one_bucket(steps: list[tuple[bytes, bytes | None]]) -> None:
    """What was put last is there until it is taken, or 16 others were put."""
    table, model = CompactTable(WAYS, 20), OrderedDict[bytes, bytes]()
    for name, value in steps:
        if value is None:
            assert table.take(name) == model.pop(name, None)
        else:
            table.put(name, value)
            model.pop(name, None)
            model[name] = value
            if len(model) > WAYS:
                model.popitem(last=False)
    for name in NAMES:
        assert table.take(name) == model.get(name)


def test_many_buckets() -> None:
    """Names are spread by their first bytes; where all fit, all are found."""
    table = CompactTable(64 * WAYS, 8)
    names = [n.to_bytes(4) + bytes(12) for n in range(64 * WAYS)]
    for name in names:
        table.put(name, name[:8])
    assert [table.take(name) for name in names] == [name[:8] for name in names]
    assert {table.take(name) for name in names} == {None}


def test_the_garbage_collector_looks_past_it() -> None:
    """However much there is in it."""
    before = len(gc.get_objects())
    table = CompactTable(1_000 * WAYS, 8)
    for n in range(1_000):
        table.put(n.to_bytes(4) + bytes(12), bytes(8))
    assert len(gc.get_objects()) - before < 10
