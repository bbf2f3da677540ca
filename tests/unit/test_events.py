"""Positions and streams: what stands in databases and cursors, and may never change."""

from __future__ import annotations

import uuid

import pytest

from eventstore.events import Kind, Position, Stream
from tests.support.deliveries import APP, SAMPLE_USER
from tests.support.parameters import short


@pytest.mark.parametrize("position", [Position(0, 0), Position(0, 1), Position(1023, 10**18 - 1)])
def test_positions_are_read_as_written(position: Position) -> None:
    """A position reads back from what it prints."""
    assert Position.parse(str(position)) == position


def test_positions_sort_by_partition_and_number() -> None:
    """Positions compare by number, not by their text."""
    assert Position.parse("0:9") < Position.parse("0:10") < Position.parse("1:1")


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "0", "0:", ":1", "0:1:2", "a:1", "0:a", "-1:1", "0:-1", "0:1.5", " 0:1", "0:1 "),
        *("0: 1", "0:+1", "0:1_0", "00:1", "0:01", "\u0660:1", "0:\u0661", "0:\u00b2", "0:1\n"),
        *("10000:1", "0:1000000000000000000", "0:" + "9" * 5000),
    ],
    ids=short,
)
def test_anything_else_is_no_position(text: str) -> None:
    """What no position prints is refused with an example of one."""
    with pytest.raises(ValueError, match="looks like 0:42"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("application_id", "user_id", "stream_id", "partition"),
    [
        (APP, SAMPLE_USER, "30b28335-0e87-6c03-c4b0-4aa8693c72f9", 3),
        ("a", "bc", "40bb547d-936b-bd31-318e-e37ac8799e7e", 305),
        ("ab", "c", "6c032e63-1d39-a14d-85af-f7e319546af7", 333),
        ("канал", "ü", "5a253f85-6f26-398a-dc4f-231f7b3a41e7", 394),
    ],
)
def test_pinned_streams(application_id: str, user_id: str, stream_id: str, partition: int) -> None:
    """A user's stream and partition are the same for ever, in every installation."""
    stream = Stream.of(application_id, user_id, 1024)
    assert stream == Stream(partition, uuid.UUID(stream_id), application_id, user_id)
    assert Stream.of(application_id, user_id, 1) == Stream(
        0, uuid.UUID(stream_id), application_id, user_id
    )


def test_pinned_kinds() -> None:
    """The numbers of the kinds stand in the log and rank events of one moment."""
    assert {kind.label: int(kind) for kind in Kind} == {
        "user.created": 1,
        "user.updated": 2,
        "user.deleted": 3,
        "user.erased": 4,
    }
