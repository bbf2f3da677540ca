"""Users and histories as rows: how the projector writes them and the read model reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventstore import sql
from eventstore.events import Kind, Position
from projections.state import UserEvent, UserState, encode_fields

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    import asyncpg

    from eventstore.database import Connection
    from eventstore.events import Stream
    from projections.history import HistoryEntry

_SQL = sql.load("projections")


class Generation(msgspec.Struct, frozen=True):
    """One generation of the read models in one partition."""

    partition: int
    number: int


def state_of(row: asyncpg.Record, partition: int) -> UserState:
    """Read a row of users."""
    fields: dict[str, Any] = msgspec.json.decode(row["state"])
    last = UserEvent(
        order_key=row["order_key"],
        position=Position(partition, row["position"]),
        kind=Kind(row["kind"]),
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        company_id=row["company_id"],
        fields={},
    )
    since: dict[str, int] = msgspec.json.decode(row["since"])
    return UserState(row["company_id"], row["lifecycle"], fields, last, since)


async def read_states(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, UserState]:
    """Read the states of those users that have one."""
    rows = await connection.fetch(_SQL["users_get"], where.partition, where.number, stream_ids)
    return {row["stream_id"]: state_of(row, where.partition) for row in rows}


async def forget(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> None:
    """Delete everything about some users."""
    if stream_ids:
        await forget_history(connection, where, stream_ids)
        await connection.execute(_SQL["users_drop"], where.partition, where.number, stream_ids)


async def forget_history(
    connection: Connection, where: Generation, stream_ids: Sequence[uuid.UUID]
) -> None:
    """Delete the histories of some users."""
    if stream_ids:
        await connection.execute(_SQL["history_drop"], where.partition, where.number, stream_ids)


async def write_states(
    connection: Connection, where: Generation, states: Sequence[tuple[Stream, UserState]]
) -> None:
    """Write the states of some users, new or not."""
    columns = zip(*(_user_row(stream, state) for stream, state in states), strict=True)
    if states:
        await connection.execute(_SQL["users_put"], where.partition, where.number, *columns)


def _user_row(stream: Stream, state: UserState) -> tuple[Any, ...]:
    return (
        stream.stream_id,
        stream.application_id,
        stream.user_id,
        state.company_id,
        state.lifecycle,
        encode_fields(state.fields).decode(),
        encode_fields(state.since).decode(),
        state.last.order_key,
        state.last.position.number,
        state.last.kind,
        state.last.occurred_at,
        state.last.recorded_at,
    )


async def write_history(
    connection: Connection, where: Generation, entries: Iterable[tuple[uuid.UUID, HistoryEntry]]
) -> None:
    """Write entries that are not there yet."""
    rows = [_history_row(stream_id, entry) for stream_id, entry in entries]
    if rows:
        columns = zip(*rows, strict=True)
        await connection.execute(_SQL["history_put"], where.partition, where.number, *columns)


def _history_row(stream_id: uuid.UUID, entry: HistoryEntry) -> tuple[Any, ...]:
    return (
        stream_id,
        entry.event.order_key,
        entry.event.position.number,
        entry.event.kind,
        entry.event.occurred_at,
        entry.event.recorded_at,
        entry.event.stated_at,
        entry.late,
        msgspec.json.encode(entry.summary).decode(),
        msgspec.json.encode(entry.changes, order="sorted").decode(),
    )
