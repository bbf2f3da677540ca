"""The users' keys: looked up and made as they are needed, the recently used kept in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import msgspec

from eventstore.errors import SealBrokenError, WrongKeyError, database_errors
from eventstore.group_commit import Batcher
from eventstore.postgres import statements
from eventstore.sealing.compact_table import CompactTable
from eventstore.sealing.keys import (
    KEY_BYTES,
    NO_PAYLOAD,
    Ciphers,
    DataKey,
    MasterKey,
    context_of,
    new_key_id,
)

if TYPE_CHECKING:
    import uuid
    from collections import deque
    from collections.abc import Iterable, Sequence

    import asyncpg

    from eventstore.events import Stream
    from eventstore.postgres.pool import Pool

    _Found: TypeAlias = dict[uuid.UUID, "StreamKey"]

_SQL = statements.load("eventstore.sealing")
_KEY_ID_BYTES = 8
_ROUNDS_MAX = 8
_EVERYBODY = b""


class StreamKey(msgspec.Struct, gc=False):
    """A user's key.

    While `stored` is false it exists in this process alone, and `wrapped` is what an append will
    write, unless the log moves to another master key before. Of an erased user only a key to name
    events with is left.
    """

    key_id: int
    data_key: DataKey
    wrapped: bytes | None = None
    # The fingerprint of the master key that wrapped it.
    wrapped_by: bytes | None = None
    stored: bool = True
    erased: bool = False

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """Take what `packed` gave."""
        key_id = int.from_bytes(packed[:_KEY_ID_BYTES])
        return cls(key_id, DataKey.unpacked(packed[_KEY_ID_BYTES:]))

    def packed(self) -> bytes:
        """Return a stored user's key, who is not erased, as 72 bytes."""
        return self.key_id.to_bytes(_KEY_ID_BYTES) + self.data_key.packed()


class _LookUp(NamedTuple):
    """Whose keys one caller waits for."""

    streams: list[Stream]
    answer: asyncio.Future[_Found]


class KeyringLimits(NamedTuple):
    """How many users' keys are kept: the last used take 0.5 kB each, compact ones 0.1 kB."""

    recent: int = 50_000
    compact: int = 2_400_000


class Keyring:
    """Finds and makes users' keys, and opens what they sealed."""

    def __init__(
        self, pool: Pool, master_key: MasterKey, limits: KeyringLimits | None = None
    ) -> None:
        limits = limits or KeyringLimits()
        self._pool = pool
        self.master = master_key
        self._recent_max = limits.recent
        # By the bytes of their streams' ids, of which the garbage collector knows nothing; the
        # least recently used first. A plain dict would look past all that have left.
        self._recent: OrderedDict[bytes, StreamKey] = OrderedDict()
        # Where they go from there.
        self._compact = CompactTable(limits.compact, _KEY_ID_BYTES + 2 * KEY_BYTES)
        # Unwrapped for the last row: they come user by user.
        self._last: tuple[tuple[uuid.UUID, bytes], DataKey] | None = None
        self._look_ups: Batcher[int, _LookUp] = Batcher("keys", self._run)
        # For the look-up under way in each partition, whose keys were dropped meanwhile: what it
        # finds may be older.
        self._dropped: dict[int, set[bytes]] = {}
        self.ciphers = Ciphers()

    def cached(self, streams: Sequence[Stream]) -> list[StreamKey] | None:
        """Return a key for each stream, or None if one would have to be looked up."""
        found: list[StreamKey] = []
        for stream in streams:
            key = self._find(stream.stream_id.bytes)
            if key is None:
                return None
            found.append(key)
        return found

    def _find(self, name: bytes) -> StreamKey | None:
        """Return a cached key, and make it the most recently used.

        Not one that was to be stored and is wrapped with another master key.
        """
        key = self._recent.get(name)
        if key is not None and (key.stored or key.wrapped_by == self.master.current):
            self._recent.move_to_end(name)
            return key
        packed = self._compact.take(name)
        if packed is None:
            return None
        return self._keep(name, StreamKey.unpacked(packed))

    def _keep(self, name: bytes, key: StreamKey) -> StreamKey:
        self._recent[name] = key
        if len(self._recent) > self._recent_max:
            oldest, old = self._recent.popitem(last=False)
            if old.stored and not old.erased:
                self._compact.put(oldest, old.packed())
        return key

    async def find_or_make(self, streams: Iterable[Stream]) -> list[StreamKey]:
        """Return a key for each stream; one look-up per partition for those not cached."""
        wanted = list(streams)
        found: dict[uuid.UUID, StreamKey] = {}
        missing: dict[int, list[Stream]] = {}
        for stream in wanted:
            if key := self._find(stream.stream_id.bytes):
                found[stream.stream_id] = key  # another call may forget it while this one waits
            else:
                missing.setdefault(stream.partition, []).append(stream)
        for partition, absent in missing.items():
            found.update(await self._look_up(partition, absent))
        return [found[stream.stream_id] for stream in wanted]

    def _look_up(self, partition: int, absent: list[Stream]) -> asyncio.Future[_Found]:
        """Look up with others; while one look-up is in flight, those who come share the next.

        Each has a future of its own: one that is abandoned takes nothing from the others.
        """
        answer: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        self._look_ups.put(partition, _LookUp(absent, answer))
        return answer

    async def _run(self, partition: int, queue: deque[_LookUp]) -> None:
        await _until_no_caller_joins(queue)
        batch = list(queue)
        queue.clear()
        wanted = {stream.stream_id: stream for one in batch for stream in one.streams}
        dropped = self._dropped[partition] = set()
        try:
            found = await self._fetch(partition, wanted)
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        else:
            for stream_id, key in found.items():
                if not dropped & {stream_id.bytes, _EVERYBODY}:
                    found[stream_id] = self._remember(stream_id.bytes, key)
            for one in batch:
                if not one.answer.done():
                    one.answer.set_result(found)
        finally:
            del self._dropped[partition]

    async def _fetch(self, partition: int, wanted: dict[uuid.UUID, Stream]) -> _Found:
        with database_errors():
            rows = await self._pool.fetch(_SQL["stream_keys"], partition, list(wanted))
        found = {row["stream_id"]: self._stored(wanted[row["stream_id"]], row) for row in rows}
        return {key: found.get(key) or self._make(stream) for key, stream in wanted.items()}

    def _stored(self, stream: Stream, row: asyncpg.Record) -> StreamKey:
        wrapped: bytes | None = row["data_key"]
        if wrapped is None:
            tombstone = self.master.tombstone_key(stream.stream_id.bytes)
            return StreamKey(row["key_id"], tombstone, erased=True)
        data_key = self.master.unwrap(wrapped, stream.stream_id.bytes)
        return StreamKey(row["key_id"], data_key)

    def _make(self, stream: Stream) -> StreamKey:
        wrapped, data_key = self.master.new_data_key(stream.stream_id.bytes)
        key_id = new_key_id()
        return StreamKey(key_id, data_key, wrapped, self.master.current, stored=False)

    def _remember(self, name: bytes, key: StreamKey) -> StreamKey:
        """Make a key the most recently used; whichever of two racing look-ups was first wins."""
        return self._find(name) or self._keep(name, key)

    def mark_stored(self, keys: Iterable[StreamKey]) -> None:
        """Note that an append has written these keys: later ones need not bring them along."""
        for key in keys:
            key.stored = True

    def forget(self, *names: bytes) -> None:
        """Drop the keys of some streams, by the bytes of their ids: they are no longer the users'.

        All ciphers go with them, and the last key that came with a row, since whose these are is
        not known.
        """
        for name in names:
            self._compact.take(name)
            self._recent.pop(name, None)
            for dropped in self._dropped.values():
                dropped.add(name)
        self.ciphers.clear()
        self._last = None

    def forget_all(self) -> None:
        """Drop the keys of all users."""
        self._recent.clear()
        self._compact.clear()
        self.forget(_EVERYBODY)

    def holds(self, stream: Stream) -> bool:
        """Say whether a user's own key is in memory, and not one that names what comes later."""
        name = stream.stream_id.bytes
        key = self._recent.get(name)
        last = self._last is not None and self._last[0][0] == stream.stream_id
        return (key is not None and not key.erased) or name in self._compact or last

    def of_row(self, row: asyncpg.Record) -> DataKey | None:
        """Return the key that came with a row of events joined with streams; None if erased."""
        wrapped: bytes | None = row["data_key"]
        if wrapped is None:
            return None
        stream_id: uuid.UUID = row["stream_id"]
        known = self._recent.get(stream_id.bytes)
        if known is not None and known.key_id == row["key_id"]:
            return known.data_key
        last = self._last
        if last is None or last[0] != (stream_id, wrapped):
            last = self._last = (stream_id, wrapped), self.master.unwrap(wrapped, stream_id.bytes)
        return last[1]

    def open(self, row: asyncpg.Record) -> bytes | None:
        """Return the payload of such a row; None if there is none, or the user is erased."""
        key = self.of_row(row)
        if key is None or row["payload"] == NO_PAYLOAD:
            return None
        context = context_of(row["stream_id"], row["identity"])
        return key.open(row["payload"], context, self.ciphers)

    async def check_master_key(self) -> None:
        """WrongKeyError if the users' keys in the database were wrapped with another master key."""
        with database_errors():
            row = await self._pool.fetchrow(_SQL["any_key"])
        try:
            if row is not None:
                self.of_row(row)
        except SealBrokenError as error:
            msg = "the master key is not the one that this database was written with"
            raise WrongKeyError(msg) from error


async def _until_no_caller_joins(queue: deque[_LookUp]) -> None:
    """Give way until a round of the loop brings no caller: callers are answered a few a round.

    A look-up costs almost as much for one user as for thirty. Where a caller joins in each round,
    it does not wait for the last.
    """
    for _ in range(_ROUNDS_MAX):
        there = len(queue)
        await asyncio.sleep(0)
        if len(queue) == there:
            break
