"""What several integration tests need: events, deliveries, and ways to look at a database."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog

from eventstore.events import Kind, NewEvent
from eventstore.postgres import statements
from projections.read_models import TABLES

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from structlog.typing import EventDict

    from tests.conftest import Stack

    Source = asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]

# A test that waits longer than this for something to happen has failed.
PATIENCE_S = 30
APP = "000000000000000000000001"
SAMPLE_USER = "6487fc9f66a6031a8b68f523"
SAMPLES = [
    resources.files("api.webhook").joinpath("samples", name).read_bytes()
    for name in ("1-create.json", "2-update.json", "3-delete.json")
]
T0 = datetime(2023, 6, 13, 9, 48, 47, 621_000, tzinfo=UTC)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def event(user_id: str = "u", name: str = "1", content: str = "", **changed: Any) -> NewEvent:
    """Make an event whose identity and, unless given, content are its name."""
    given: dict[str, Any] = {
        "application_id": APP,
        "user_id": user_id,
        "kind": Kind.UPDATED,
        "occurred_at": T0,
        "identity": name.encode(),
        "content": (content or name).encode(),
        "payload": f"payload of {name}".encode(),
    }
    return NewEvent(**{**given, **changed})


def delivery(user_id: str = "u", kind: str = "update", at_ms: int = 0, **fields: object) -> bytes:
    """Make a delivery with one user, which happened some milliseconds after T0."""
    return envelope({"user": {"user_id": user_id, **fields}}, kind=kind, at_ms=at_ms)


def envelope(*entries: object, topic: str = "user", kind: str = "update", at_ms: int = 0) -> bytes:
    """Make a delivery with these entries."""
    happened = int(T0.timestamp() * 1000) + at_ms
    meta = {"name": topic, "type": kind, "created_timestamp": happened}
    body = {"event": meta, "company_id": 1, "application_id": APP, "payload": entries}
    return json.dumps(body).encode()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """Open a connection that is not the code's."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def holding(url: str, statement: str) -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """Hold what a statement locks for as long as the block lasts."""
    async with connected(url) as connection, connection.transaction():
        await connection.execute(statement)
        yield connection


HEADS = "SELECT 1 FROM userlog.log_head FOR UPDATE"
_BLOCKED = """
SELECT pid FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database() ORDER BY pid
"""


async def blocked(source: Source, count: int = 1) -> list[int]:
    """Wait until so many backends wait for a lock, and return their pids."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            # In a transaction of its own statistics would be those of its beginning.
            await source.execute("SELECT pg_stat_clear_snapshot()")
            found = await source.fetch(_BLOCKED)
            if len(found) >= count:
                return [row["pid"] for row in found]


async def kill(source: Source, pids: list[int]) -> None:
    """End backends as an administrator or a crash does."""
    await source.execute("SELECT pg_terminate_backend(unnest($1::integer[]))", pids)


def command_line(pid: int) -> list[str]:
    """What a process was started with; empty of one that has ended, or is ending."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word for word in words if word]


async def positions(source: Source, partition: int = 0) -> list[int]:
    """Return all positions that can be seen, in order."""
    found = await source.fetch(
        "SELECT position FROM userlog.events WHERE partition = $1 ORDER BY position", partition
    )
    return [row["position"] for row in found]


async def assert_log_holds(stack: Stack) -> int:
    """Check numbers, times and hash chain of every partition from its rows; count the events."""
    total = 0
    for head in await stack.log.heads():
        rows = await stack.pool.fetch(
            "SELECT * FROM userlog.events WHERE partition = $1 ORDER BY position",
            head.position.partition,
        )
        assert [row["position"] for row in rows] == list(range(1, head.position.number + 1))
        times = [row["recorded_at"] for row in rows]
        assert times == sorted(times)
        assert all(time.microsecond % 1000 == 0 for time in times)
        if rows:
            assert head.recorded_at == times[-1]
        assert head.chain == _chain(rows)
        total += len(rows)
    return total


def _chain(rows: list[asyncpg.Record]) -> bytes:
    chain, leaves = bytes(32), b""
    for row in rows:
        leaves += hashlib.sha256(_leaf(row)).digest()
        if row["chain"] is not None:
            chain, leaves = hashlib.sha256(chain + leaves).digest(), b""
            assert row["chain"] == chain
    assert not leaves, "the last event of a batch carries no chain"
    return chain


def _leaf(row: asyncpg.Record) -> bytes:
    stream_id: uuid.UUID = row["stream_id"]
    numbers = struct.pack(">iq", row["partition"], row["position"])
    about = struct.pack(
        ">hqq",
        row["kind"],
        (row["occurred_at"] - _POSTGRES_EPOCH) // _MICROSECOND,
        (row["recorded_at"] - _POSTGRES_EPOCH) // _MICROSECOND,
    )
    keyed: bytes = row["identity"] + row["digest"] + row["payload"]
    return numbers + stream_id.bytes + about + keyed


async def erase(stack: Stack, user_id: str) -> None:
    """Do to a user's key what an erasure does."""
    await stack.admin.execute(
        "UPDATE userlog.streams SET data_key = NULL, erased_at = now(), key_id = key_id + 1"
        " WHERE user_id = $1",
        user_id,
    )


async def alter(stack: Stack, number: int, partition: int = 0) -> None:
    """Alter an event's sealed payload, as only a fault of the disk or an attacker does."""
    await stack.admin.execute(
        "UPDATE userlog.events SET payload = payload || '\\x00'"
        f" WHERE partition = {partition} AND position = {number}"
    )


async def restore(stack: Stack, number: int, partition: int = 0) -> None:
    """Take back what `alter` did."""
    await stack.admin.execute(
        "UPDATE userlog.events SET payload = substr(payload, 1, octet_length(payload) - 1)"
        f" WHERE partition = {partition} AND position = {number}"
    )


async def begin_again(stack: Stack) -> None:
    """Forget everything that was projected."""
    for table in (*(table.name for table in TABLES), "parked"):
        await stack.admin.execute(f"DELETE FROM userlog.{table}")
    await stack.admin.execute("UPDATE userlog.checkpoints SET position = 0")


async def parked_events(stack: Stack) -> list[tuple[str, str]]:
    """Return the events because of which users are parked, and why, in order."""
    rows = await stack.pool.fetch(
        "SELECT p.* FROM userlog.parked p JOIN userlog.active_generation a"
        " ON a.generation = p.generation ORDER BY partition, position"
    )
    return [(f"{row['partition']}:{row['position']}", row["reason"]) for row in rows]


async def tables(source: Source) -> list[list[tuple[Any, ...]]]:
    """Return what the active generation says, row by row, without its number."""
    found: list[list[tuple[Any, ...]]] = []
    for table in TABLES:
        order = ", ".join(("partition", "stream_id", *table.key))
        rows = await source.fetch(
            f"SELECT t.* FROM userlog.{table.name} t JOIN userlog.active_generation a"
            f" ON t.generation = a.generation ORDER BY {order}"
        )
        found.append([tuple(v for k, v in row.items() if k != "generation") for row in rows])
    return found


# The packages that have named statements.
PACKAGES = (
    *("eventstore", "eventstore.sealing", "projections", "projections.project"),
    *("projections.query", "projections.prove", "projections.rebuild"),
    *("api.web", "api.observe"),
)


def all_statements() -> dict[str, str]:
    """Return every statement by its name; those of a read model are `<table>_put` and so on."""
    found = {
        f"{table.name}_{what}": getattr(table, what)
        for table in TABLES
        for what in ("put", "drop", "select", "sums")
    }
    for named in map(statements.load, PACKAGES):
        assert not found.keys() & named.keys(), "a name is in one package only"
        found |= named
    return found


def statement(name: str) -> str:
    """Return a named statement."""
    return all_statements()[name]


class Proxy:
    """Stands between the code and the server, so that a test can take the server away."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._host = query["host"][0] if "host" in query else parts.hostname or "localhost"
        self._port = int(query["port"][0]) if "port" in query else parts.port or 5432
        self._path = parts.path
        self._user = query.get("user", [parts.username or "postgres"])[0]
        self._password = parts.password
        # Where the code connects to.
        self.url = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._away = False
        # While true, what the server answers does not reach the client.
        self.deaf = False

    async def listen(self) -> str:
        """Begin to let clients in; return the URL for them."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        secret = f":{self._password}" if self._password else ""
        return f"postgresql://{self._user}{secret}@127.0.0.1:{port}{self._path}"

    async def close(self) -> None:
        """Let nobody in any more."""
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def cut(self) -> None:
        """Take the server away: drop the connections, and every new one at once."""
        self._away = True
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        """Bring the server back."""
        self._away = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            writer.transport.abort()
            return
        there, back = await self._connect()
        self._writers |= {writer, back}
        forth = asyncio.create_task(self._pump(reader, back, answers=False))
        await self._pump(there, writer, answers=True)
        await forth
        self._writers -= {writer, back}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not (answers and self.deaf):
                    writer.write(data)
                    await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncGenerator[Proxy]:
    """Put a proxy before a server."""
    proxy = Proxy(url)
    proxy.url = await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()


async def retried(action: Callable[[], Awaitable[Any]], on: type[Exception]) -> Any:
    """Try until it succeeds, as the platform does."""
    while True:
        with contextlib.suppress(on):
            return await action()


class Lines:
    """What the code says in its log, to be waited for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[EventDict] = asyncio.Queue()

    def __call__(self, _logger: object, _method: str, line: EventDict) -> EventDict:
        self._queue.put_nowait(dict(line))
        raise structlog.DropEvent

    async def until(self, said: str) -> EventDict:
        """Wait for a line."""
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._queue.get())["event"] != said:
                pass
        return line

    def all(self) -> list[str]:
        """Take what has been said since."""
        return [self._queue.get_nowait()["event"] for _ in range(self._queue.qsize())]
