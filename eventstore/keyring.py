"""The users' keys that this process has at hand, looked up and made as they are needed."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from eventstore import sql
from eventstore.errors import database_errors
from eventstore.events import Stream
from eventstore.sealing import DataKey, MasterKey

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    import asyncpg

    from eventstore.database import Pool

    _LookUp = asyncio.Task[dict[uuid.UUID, "StreamKey"]]

_SQL = sql.load("eventstore")
_KEY_ID_BITS = 63


class StreamKey(msgspec.Struct, gc=False):
    """A user's key.

    While `stored` is false it exists in this process alone, and `wrapped` is what an append will
    write. Of an erased user only a key to name events with is left.
    """

    stream: Stream
    key_id: int
    data_key: DataKey
    wrapped: bytes | None = None
    stored: bool = True
    erased: bool = False


class Keyring:
    """Finds and makes users' keys; keeps the `capacity` most recently used in memory."""

    def __init__(self, pool: Pool, master_key: MasterKey, capacity: int) -> None:
        """Nothing is read until the first key is asked for."""
        self._pool = pool
        self._master = master_key
        self._capacity = capacity
        self._keys: OrderedDict[uuid.UUID, StreamKey] = OrderedDict()
        """The least recently used first. A plain dict would look past all that have left."""
        self._last: tuple[tuple[uuid.UUID, bytes], DataKey] | None = None
        """Unwrapped for the last row: they come user by user."""
        self._next: dict[int, tuple[dict[uuid.UUID, Stream], _LookUp]] = {}
        self._one_at_a_time: dict[int, asyncio.Lock] = {}

    def at_hand(self, streams: Sequence[Stream]) -> list[StreamKey] | None:
        """Return a key for each stream, or None if one would have to be looked up."""
        known = self._keys
        found: list[StreamKey] = []
        for stream in streams:
            key = known.get(stream.stream_id)
            if key is None:
                return None
            known.move_to_end(stream.stream_id)
            found.append(key)
        return found

    async def find_or_make(self, streams: Iterable[Stream]) -> list[StreamKey]:
        """Return a key for each stream; one look-up per partition for those not at hand."""
        wanted = list(streams)
        found: dict[uuid.UUID, StreamKey] = {}
        missing: dict[int, dict[uuid.UUID, Stream]] = {}
        for stream in wanted:
            if key := self._keys.get(stream.stream_id):
                found[stream.stream_id] = key  # another call may forget it while this one waits
            else:
                missing.setdefault(stream.partition, {})[stream.stream_id] = stream
        for partition, absent in missing.items():
            found.update(await self._look_up(partition, absent))
        return [self._remember(found[stream.stream_id]) for stream in wanted]

    async def _look_up(
        self, partition: int, absent: dict[uuid.UUID, Stream]
    ) -> dict[uuid.UUID, StreamKey]:
        """Look up with others; while one look-up is under way, those who come share the next."""
        if partition not in self._next:
            wanted: dict[uuid.UUID, Stream] = {}
            task = asyncio.create_task(self._fetch(partition, wanted), name=f"keys-{partition}")
            task.add_done_callback(_retrieve)
            self._next[partition] = wanted, task
        wanted, task = self._next[partition]
        wanted.update(absent)
        found = await asyncio.shield(task)  # one who leaves takes nothing from the others
        return {stream_id: found[stream_id] for stream_id in absent}

    async def _fetch(
        self, partition: int, wanted: dict[uuid.UUID, Stream]
    ) -> dict[uuid.UUID, StreamKey]:
        async with self._one_at_a_time.setdefault(partition, asyncio.Lock()):
            del self._next[partition]
            with database_errors():
                rows = await self._pool.fetch(_SQL["stream_keys"], partition, list(wanted))
        found = {row["stream_id"]: self._stored(wanted[row["stream_id"]], row) for row in rows}
        return {key: found.get(key) or self._make(stream) for key, stream in wanted.items()}

    def _stored(self, stream: Stream, row: asyncpg.Record) -> StreamKey:
        wrapped: bytes | None = row["data_key"]
        if wrapped is None:
            tombstone = self._master.tombstone_key(stream.stream_id.bytes)
            return StreamKey(stream, row["key_id"], tombstone, erased=True)
        data_key = self._master.unwrap(wrapped, stream.stream_id.bytes)
        return StreamKey(stream, row["key_id"], data_key)

    def _make(self, stream: Stream) -> StreamKey:
        wrapped, data_key = self._master.new_data_key(stream.stream_id.bytes)
        key_id = secrets.randbits(_KEY_ID_BITS)
        return StreamKey(stream, key_id, data_key, wrapped, stored=False)

    def _remember(self, key: StreamKey) -> StreamKey:
        """Make a key the most recently used; whichever of two racing look-ups was first wins."""
        stream_id = key.stream.stream_id
        key = self._keys.setdefault(stream_id, key)
        self._keys.move_to_end(stream_id)
        if len(self._keys) > self._capacity:
            self._keys.popitem(last=False)
        return key

    def tombstone(self, stream: Stream) -> StreamKey:
        """Make what is left of a user's key when they are erased: it names, and opens nothing."""
        naming = self._master.tombstone_key(stream.stream_id.bytes)
        return StreamKey(stream, secrets.randbits(_KEY_ID_BITS), naming, erased=True)

    def forget(self, stream: Stream) -> None:
        """Drop a key that turned out to be another one in the database."""
        self._keys.pop(stream.stream_id, None)
        self._last = None

    def of_row(self, row: asyncpg.Record) -> DataKey | None:
        """Return the key that came with a row of events joined with streams; None if erased."""
        wrapped: bytes | None = row["data_key"]
        if wrapped is None:
            return None
        stream_id: uuid.UUID = row["stream_id"]
        known = self._keys.get(stream_id)
        if known is not None and known.key_id == row["key_id"]:
            return known.data_key
        last = self._last
        if last is None or last[0] != (stream_id, wrapped):
            last = self._last = (stream_id, wrapped), self._master.unwrap(wrapped, stream_id.bytes)
        return last[1]


def _retrieve(look_up: _LookUp) -> None:
    """Let an error be nobody's, if all who waited have left."""
    if not look_up.cancelled():
        look_up.exception()
