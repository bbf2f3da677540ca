"""Everything that a command or the service needs, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from api.web.waiting import wait_for
from api.webhook.decode import Limits
from api.webhook.ingest import Ingest
from eventstore.errors import NotThereError, database_errors
from eventstore.group_commit import QueueLimits
from eventstore.log import EventLog
from eventstore.postgres import embedded, schema, upgrade
from eventstore.postgres.pool import (
    open_owner_pool,
    open_pool,
    owner_connection,
    refuse_transaction_pooler,
)
from eventstore.quarantine import Quarantine
from eventstore.sealing import current_key, erased_keys
from projections.query.users import ReadModel
from projections.rebuild.log_source import LogSource
from projections.upgrade import Watcher, upgrade_schema

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from api.config.secret_files import Secrets
    from api.config.settings import Settings
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from projections.rebuild.progress import Progress

_log = structlog.stdlib.get_logger("userlog")


class Runtime:
    """The parts of a running userlog."""

    def __init__(
        self, settings: Settings, source: LogSource, pool: Pool, log: EventLog, *, as_owner: bool
    ) -> None:
        """Made by `opened`; `source` is how a worker process opens the same log as its owner.

        `as_owner` says that the service has the owner's rights.
        """
        self.settings = settings
        self.as_owner = as_owner
        self.source = source
        self.pool = pool
        self.master_key = log.master_key
        self.log = log
        self.quarantine = Quarantine(
            pool, log.partitions, log.own_keys, settings.quarantine_bytes_max
        )
        limits = Limits(
            settings.delivery_entries_max,
            settings.delivery_events_bytes_max,
            settings.entry_values_max,
            settings.extra_names_max,
        )
        self.ingest = Ingest(log, self.quarantine, limits)
        self.read_model = ReadModel(log, pool)


class Urls(NamedTuple):
    """How to reach the database: as the owner of the schema, and as the service.

    They are the same if only one is set. An embedded one has its own for the service as soon as the
    schema is there; until then it is None.
    """

    owner: str
    service: str | None


@contextlib.asynccontextmanager
async def database_urls(settings: Settings) -> AsyncGenerator[Urls]:
    """Yield the URLs of the database: those that are set, or of the embedded one, running."""
    if settings.database_url is not None:
        yield Urls(settings.owner_database_url or settings.database_url, settings.database_url)
        return

    def notice(text: str) -> None:
        _log.info(text)

    async with embedded.running(Path(settings.data_dir), notice=notice) as url:
        yield Urls(url, None)


async def install(url: str, settings: Settings, secrets: Secrets, partitions: int = 1) -> bool:
    """Install the schema in an empty database, as its owner; return whether it was empty.

    The log that is in it then is written with the master key.
    """
    async with owner_connection(url, settings.database_timeout_s) as connection:
        async with owner_connection(url, settings.database_timeout_s) as other:
            await refuse_transaction_pooler(connection, other)
        return await _install(connection, secrets, partitions)


async def prepare(
    urls: Urls, settings: Settings, secrets: Secrets, reached: Callable[[str], None]
) -> str:
    """See to it that an embedded database has the schema of this version; return the service's URL.

    An upgrade is logged, and `reached` is called with how far it is.
    """
    async with owner_connection(urls.owner, settings.database_timeout_s) as connection:
        there = await connection.fetchval("SELECT to_regnamespace('userlog') IS NOT NULL")
        old = there and (await schema.installed(connection)).version < schema.SCHEMA_VERSION
    if old:  # which waits for all other sessions to end
        source = source_of(urls, settings, secrets)
        await upgrade_schema(source, os.cpu_count() or 1, _Logging(reached))
    async with owner_connection(urls.owner, settings.database_timeout_s) as connection:
        if await _install(connection, secrets):
            _log.info("schema installed", version=schema.SCHEMA_VERSION)
        url = await embedded.service_url(connection, urls.owner)
    await take_apart(Urls(urls.owner, url), settings, secrets, _Logging(reached))
    return url


async def take_apart(urls: Urls, settings: Settings, secrets: Secrets, watcher: Watcher) -> None:
    """Do what an upgrade to schema version 5 has to do after the switch, if that is not done.

    Versions before it have kept deliveries whole in quarantine, where no erasure reaches the users.
    """
    async with owner_connection(urls.owner, settings.database_timeout_s) as connection:
        if not await upgrade.keeps_whole(connection):
            return
        watcher.say("what an earlier version has kept whole in quarantine is taken apart")
        await upgrade.begin_audit(connection)
        runtime = await _open(urls, settings, secrets, owner=False)
        try:
            if await runtime.ingest.replay_all():
                await upgrade.took_apart(connection)
        finally:
            await _close(runtime.pool, settings.shutdown_timeout_s)


async def _install(connection: Connection, secrets: Secrets, partitions: int = 1) -> bool:
    installed = await schema.install(connection, partitions)
    if installed:
        await current_key.begin(connection, secrets.master)
    return installed


class _Logging(Watcher):
    """Logs an upgrade."""

    def __init__(self, reached: Callable[[str], None]) -> None:
        self._reached = reached

    def say(self, text: str) -> None:
        _log.info("upgrading the schema", doing=text)
        self._reached(text)

    def filled(self, found: Progress) -> None:
        self._reached(f"{found.phase}, {found.events} of {found.events_total} events")


def source_of(urls: Urls, settings: Settings, secrets: Secrets) -> LogSource:
    """Return how another process, or pool, opens the log as its owner."""
    keys = (secrets.master_key, secrets.previous_master_key)
    return LogSource(urls.owner, *keys, settings.database_timeout_s)


def _nothing(_text: str) -> None:
    """Do nothing with word of an upgrade."""


class Waiting(NamedTuple):
    """How a service waits for its database: until it is stopped, and with word of an upgrade."""

    stopping: asyncio.Event
    reached: Callable[[str], None] = _nothing


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    secrets: Secrets,
    *,
    owner: bool = False,
    create: bool = False,
    waiting: Waiting | None = None,
) -> AsyncGenerator[Runtime]:
    """Open the database, and everything upon it.

    An embedded database that is not there, or has no schema, is made if `create`, and one of an
    earlier version is upgraded; else these are a NotThereError and an OtherVersionError, as on a
    server. Only what makes or drops tables needs to be their `owner`. A database that is away is an
    UnavailableError; with `waiting` it is waited for, until that is stopped (StoppedWaitingError).
    """
    create = create and settings.database_url is None
    if not create:
        require_data(settings)
    async with database_urls(settings) as urls:

        async def open_it() -> Runtime:
            if create:
                reached = waiting.reached if waiting else _nothing
                await prepare(urls, settings, secrets, reached)
            return await _open(urls, settings, secrets, owner=owner)

        runtime = await (wait_for(open_it, waiting.stopping) if waiting else open_it())
        try:
            async with erased_keys.followed(runtime.pool, runtime.log.keyring, _not_followed):
                yield runtime
                await runtime.log.close()
        finally:
            await _close(runtime.pool, settings.shutdown_timeout_s)


def _not_followed(error: Exception) -> None:
    _log.error("erased users' keys may stay in memory", exc_info=error)


def require_data(settings: Settings) -> None:
    """NotThereError if the database is to be embedded, and was never made in the data directory."""
    folder = Path(settings.data_dir)
    if settings.database_url is None and not (folder / embedded.CLUSTER).exists():
        raise NotThereError(
            f"there is no userlog in {folder.resolve()}; `userlog init` or `userlog serve` makes"
            " one there, USERLOG_DATA_DIR names another data directory, USERLOG_DATABASE_URL a"
            " server's database"
        )


async def _open(urls: Urls, settings: Settings, secrets: Secrets, *, owner: bool) -> Runtime:
    async with owner_connection(
        urls.service or urls.owner, settings.database_timeout_s
    ) as connection:
        checked = await schema.check(connection)
        # The embedded database's service logs in as another than this connection.
        as_owner = checked.as_owner and urls.service is not None
        service = urls.service or await embedded.service_url(connection, urls.owner)
    if checked.additional:
        _log.warning("the schema has more than userlog made", additional=checked.additional)
    size, timeout_s = settings.pool_connections_max, settings.database_timeout_s
    if owner:
        pool = await open_owner_pool(urls.owner, size=size, timeout_s=timeout_s)
    else:
        takeover_s = settings.takeover_timeout_s
        pool = await open_pool(service, size=size, timeout_s=timeout_s, takeover_s=takeover_s)
    source = source_of(urls, settings, secrets)
    limits = QueueLimits(settings.queue_rows_max, settings.batch_rows_max, settings.batch_bytes_max)
    try:
        # What the owner works on may be elsewhere.
        log = await EventLog.open(pool, secrets.master, limits, None if owner else checked)
    except BaseException:
        pool.terminate()
        raise
    return Runtime(settings, source, pool, log, as_owner=as_owner)


async def _close(pool: Pool, timeout_s: float) -> None:
    try:
        with database_errors():
            async with asyncio.timeout(timeout_s):
                await pool.close()
    except Exception:  # noqa: BLE001 - nothing is left to be saved by waiting longer
        pool.terminate()
