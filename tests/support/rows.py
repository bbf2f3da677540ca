"""Rows of the read models, written by hand: with the user's key, as who has it could."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.sealing.columns import place_of
from projections.fold.events import order_key_of
from projections.sealed import SealedEntry, SealedUser, open_entry, open_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.events import Stream
    from eventstore.sealing.columns import ColumnKey
    from tests.conftest import Stack

_encode = msgspec.json.Encoder(order="sorted").encode


async def key_of(stack: Stack, stream: Stream) -> ColumnKey:
    """Return the key of a user's columns."""
    (key,) = await stack.log.keyring.find_or_make([stream])
    return key.data_key.for_columns()


async def rewrite_state(
    stack: Stack, stream: Stream, change: Callable[[dict[str, Any]], None]
) -> None:
    """Change what a user's row says of them."""
    key = await key_of(stack, stream)
    row = await stack.admin.fetchrow(
        "SELECT * FROM userlog.users WHERE stream_id = $1", stream.stream_id
    )
    assert row
    old = open_user(key, row)
    fields = msgspec.json.decode(old.state)
    change(fields)
    text = _encode(SealedUser(old.company_id, old.since, msgspec.Raw(_encode(fields))))
    place = _place("users", row)
    await stack.admin.execute(
        "UPDATE userlog.users SET sealed = $2 WHERE stream_id = $1",
        stream.stream_id,
        key.seal(text, place),
    )


async def rewrite_changes(stack: Stack, stream: Stream, position: int, changes: bytes) -> None:
    """Change what an entry of a user's history says, given as JSON."""
    key = await key_of(stack, stream)
    row = await stack.admin.fetchrow(
        "SELECT * FROM userlog.history WHERE stream_id = $1 AND position = $2",
        *(stream.stream_id, position),
    )
    assert row
    old = open_entry(key, row)
    text = _encode(SealedEntry(old.summary, msgspec.Raw(changes), old.stated_at))
    place = _place("history", row)
    await stack.admin.execute(
        "UPDATE userlog.history SET sealed = $3 WHERE stream_id = $1 AND position = $2",
        *(stream.stream_id, position, key.seal(text, place)),
    )


def _place(table: str, row: Any) -> bytes:
    order_key = order_key_of(row["occurred_at"], row["kind"], row["tie_break"])
    return place_of(table, row["stream_id"], order_key, row["position"])
