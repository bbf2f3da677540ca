"""Databases with the schema of an earlier version, as that version made them."""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.webhook.decode import decode
from eventstore.audit import Act, Actor, Audit
from eventstore.log import EventLog
from eventstore.postgres import schema
from eventstore.postgres.pool import open_owner_pool
from eventstore.sealing.keys import MasterKey, new_key_id
from eventstore.sealing.own_keys import OwnKeys
from eventstore.sealing.seal import seal
from tests.conftest import MASTER_KEY
from tests.support.database import connected
from tests.support.deliveries import APP, delivery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from eventstore.events import NewEvent, Stream
    from eventstore.postgres.pool import Pool
    from tests.support.database import Source
    from tests.support.server import Server

SCHEMAS = Path(__file__).parents[1] / "schemas"
OLDEST = 1
# From this version on, what changes the log is called with the master key's fingerprint.
WITH_FINGERPRINT = 3
# From this one on with a row of the audit, and arrays of what goes into quarantine.
WITH_AUDIT = 5
USERS = 20
ERASED, PARKED = "u3", "u5"
PARKED_SINCE = "2025-03-01 10:00:00+00"
# What rows of the quarantine have only since later versions.
_NEWER = {"bytes", "stream_id", "application_id", "user_id"}
_GENERATION = re.compile(r"_g\d+")
# Everything that a catalogue says of a schema, a line for each, in no order.
_EVERYTHING = """
SELECT concat_ws(' ', 'column', c.relname, attname, format_type(atttypid, atttypmod), attnotnull,
    attstattarget,
    pg_get_expr(d.adbin, d.adrelid))
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid AND c.relkind IN ('r', 'p')
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = attnum
WHERE relnamespace = 'userlog'::regnamespace AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT concat_ws(' ', 'table', relname, relkind, relispartition,
    CASE WHEN NOT relispartition THEN relacl END, pg_get_expr(relpartbound, oid))
FROM pg_class WHERE relnamespace = 'userlog'::regnamespace
UNION ALL SELECT concat_ws(' ', 'index', indexdef) FROM pg_indexes WHERE schemaname = 'userlog'
UNION ALL SELECT concat_ws(' ', 'constraint', conname, conrelid::regclass,
    pg_get_constraintdef(oid)) FROM pg_constraint
WHERE connamespace = 'userlog'::regnamespace AND contype <> 'n'
UNION ALL SELECT concat_ws(' ', 'function', proname, pg_get_function_arguments(oid), prosecdef,
    proconfig, proacl, provolatile, prosrc) FROM pg_proc
WHERE pronamespace = 'userlog'::regnamespace
UNION ALL SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid)) FROM pg_trigger
WHERE NOT tgisinternal
UNION ALL SELECT concat_ws(' ', 'schema', nspname, nspacl) FROM pg_namespace
WHERE nspname LIKE 'userlog%'
UNION ALL SELECT concat_ws(' ', 'meta', to_jsonb(m) - 'log_id') FROM userlog.meta m
UNION ALL SELECT concat_ws(' ', 'head', partition) FROM userlog.log_head
UNION ALL SELECT concat_ws(' ', 'checkpoint', partition) FROM userlog.checkpoints
UNION ALL SELECT concat_ws(' ', 'generation', state, fold) FROM userlog.generations
"""


async def catalogue(source: Source) -> list[str]:
    """Return everything that a schema is made of, without the numbers of generations."""
    rows = await source.fetch(_EVERYTHING)
    lines = [_GENERATION.sub("_g", row[0]) for row in rows]
    return sorted(re.sub(r"FOR VALUES IN \(\d+\)", "FOR VALUES IN ()", line) for line in lines)


async def install(url: str, version: int, partitions: int) -> None:
    """Install the schema of an earlier version."""
    async with connected(url) as connection:
        for name in ("schema", "guard"):
            for statement in schema.statements_of(SCHEMAS / f"{version}-{name}.sql"):
                await connection.execute(statement)
        await connection.execute("UPDATE userlog.meta SET partitions = $1", partitions)
        await connection.execute(
            "INSERT INTO userlog.log_head (partition) SELECT generate_series(1, $1::int - 1)",
            partitions,
        )
        if version >= WITH_AUDIT:
            await connection.execute(
                "INSERT INTO userlog.audit_head (partition) SELECT generate_series(1, $1::int - 1)",
                partitions,
            )
        columns, values = (", projection", ", 'users'") if version == OLDEST else ("", "")
        await connection.execute(
            f"INSERT INTO userlog.checkpoints (partition, generation{columns})"
            f" SELECT generate_series(1, $1::int - 1), 1{values}",
            partitions,
        )


class OlderLog:
    """The log of an earlier version, which append() and erase() of that version write."""

    def __init__(self, log: EventLog, pool: Pool, version: int) -> None:
        self.stream = log.stream
        self._keyring = log.keyring
        self._pool = pool
        master = [] if version < WITH_FINGERPRINT else [log.keyring.master.current]
        self._master = master  # what the functions are called with besides
        self._version = version
        self._audit = Audit(pool, OwnKeys(pool, log.keyring.master))

    async def append(self, events: Sequence[NewEvent]) -> None:
        """Append events of one partition or more, each as a batch of its own."""
        streams = [self.stream(event.application_id, event.user_id) for event in events]
        for event, stream in zip(events, streams, strict=True):
            (key,) = await self._keyring.find_or_make([stream])
            sealed = seal(event, stream, key, self._keyring.ciphers)
            new = [] if key.stored else [stream]
            await self._call(
                "append",
                stream.partition,
                *self._master,
                None,
                [one.stream_id for one in new],
                [one.application_id for one in new],
                [one.user_id for one in new],
                [key.key_id for _ in new],
                [key.wrapped for _ in new],
                *([value] for value in sealed[:7]),
            )
            self._keyring.mark_stored([key])

    async def erase(self, stream: Stream) -> None:
        """Erase a user."""
        naming = self._keyring.master.tombstone_key(stream.stream_id.bytes)
        audited: list[object] = []
        if self._version >= WITH_AUDIT:
            sealed = await self._audit.seal(Act("erase", Actor("command", "older")), stream)
            audited = [stream.application_id, stream.user_id, None, sealed]
        await self._call(
            "erase",
            *(stream.partition, *self._master, None, stream.stream_id, new_key_id()),
            *(naming.identity(b"erased"), naming.digest(b"erased"), *audited),
        )
        self._keyring.forget(stream.stream_id.bytes)

    async def put_into_quarantine(self) -> None:
        """Put a delivery into quarantine, by what version 2 and later have for it."""
        about = (uuid.uuid4(), "no-users", "d", "{}", 300, b"abc", b"body")
        if self._version >= WITH_AUDIT:
            key, reason, detail, headers, size, wrapped, body = ([one] for one in about)
            nothing: list[None] = [None]
            ids = (key, nothing, nothing, nothing)
            columns = (*ids, reason, detail, size, wrapped, body)
            await self._call("quarantine_put", 0, *self._master, headers[0], *columns)
            return
        await self._call("quarantine_put", 0, *self._master, *about)

    async def _call(self, function: str, *args: object) -> None:
        places = ", ".join(f"${n}" for n in range(1, len(args) + 1))
        await self._pool.execute(f"SELECT userlog.{function}({places})", *args)


@contextlib.asynccontextmanager
async def older_log(url: str, version: int = OLDEST) -> AsyncGenerator[OlderLog]:
    """Open a log of an earlier version."""
    pool = await open_owner_pool(url, size=3, timeout_s=30, schema="userlog_test")
    log = await EventLog.open_older(pool, MasterKey(MASTER_KEY))
    if version >= WITH_FINGERPRINT:
        await log.begin()
    yield OlderLog(log, pool, version)
    await pool.close()


async def fill(url: str, version: int = OLDEST, events_each: int = 4) -> None:
    """Write what a service of a version would have: events, an erased and a parked user, and more.

    Its read models have a row only for the user who is parked.
    """
    async with older_log(url, version) as log:
        if version > OLDEST:
            for _ in range(3):
                await log.put_into_quarantine()
        for n in range(events_each):
            bodies = (delivery(f"u{user}", "update", n, first_name=f"{n}") for user in range(USERS))
            await log.append([event for body in bodies for event in decode(body).events])
        await log.erase(log.stream(APP, ERASED))
        parked = log.stream(APP, PARKED)
    async with connected(url) as admin:
        await admin.execute("SET session_replication_role = replica")
        await admin.execute(
            "UPDATE userlog.events e SET payload = payload || '\\x00' WHERE position ="
            " (SELECT max(position) FROM userlog.events WHERE stream_id = $1) AND stream_id = $1",
            parked.stream_id,
        )
        await _park(admin, parked, "set_aside" if version == OLDEST else "parked")
        if version == OLDEST:
            await admin.execute(
                "INSERT INTO userlog.quarantine"
                " (partition, id, reason, detail, headers, data_key, body)"
                " SELECT 0, gen_random_uuid(), 'no-users', 'd', '{}', 'abc', 'body'"
                " FROM generate_series(1, 3)"
            )
        await admin.execute(
            "INSERT INTO userlog.tokens (id, hash, name, scopes) VALUES ('t', 'h', 'n', '{read}')"
        )


@contextlib.asynccontextmanager
async def older_database(server: Server, version: int, partitions: int) -> AsyncGenerator[str]:
    """Make a database of an earlier version, filled; yield its URL."""

    async def make(url: str) -> None:
        await install(url, version, partitions)
        await fill(url, version)

    async with server.filled(("older", version, partitions), make) as url:
        yield url


async def _park(admin: Any, user: Stream, table: str) -> None:
    await admin.execute(
        f"INSERT INTO userlog.{table} (partition, generation, stream_id, position, reason, since)"
        " SELECT $1, 1, $2, max(position), 'seal-broken', $3::text::timestamptz"
        " FROM userlog.events WHERE stream_id = $2",
        *(user.partition, user.stream_id, PARKED_SINCE),
    )


async def log_rows(source: Source) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of the log and of what is kept beside it."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    wanted: dict[str, Callable[[str], bool]] = {
        "events": lambda _: True,
        "streams": lambda _: True,
        "log_head": lambda name: name != "fingerprint",
        "tokens": lambda _: True,
        "quarantine": lambda name: name not in _NEWER,
    }
    for table, keep in wanted.items():
        rows = await source.fetch(f"SELECT * FROM userlog.{table} t ORDER BY t::text")
        found[table] = [tuple(v for k, v in row.items() if keep(k)) for row in rows]
    return found
