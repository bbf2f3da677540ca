"""Everything a command or the service needs, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog

from api.ingest import Ingest
from eventstore import database, embedded
from eventstore.appender import AppenderLimits
from eventstore.errors import database_errors
from eventstore.log import EventLog
from eventstore.quarantine import Quarantine
from projections.read_model import ReadModel
from projections.scrubber import Scrubber
from projections.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.secret_files import Secrets
    from api.settings import Settings
    from eventstore.database import Pool

_log = structlog.stdlib.get_logger("userlog")


class Runtime:
    """The parts of a running userlog."""

    def __init__(
        self, settings: Settings, source: Source, log: EventLog, quarantine: Quarantine
    ) -> None:
        """Made by `opened`; `source` is how a worker process opens the same log."""
        self.settings = settings
        self.source = source
        self.master_key = source.master()
        self.log = log
        self.quarantine = quarantine
        self.ingest = Ingest(log, quarantine)
        self.read_model = ReadModel(log)
        self.scrubber = Scrubber(log, interval_s=settings.scrub_interval_s)


@contextlib.asynccontextmanager
async def database_url(settings: Settings) -> AsyncGenerator[str]:
    """Yield the URL of the database: the one that is set, or the embedded one, running."""
    if settings.database_url is not None:
        yield settings.database_url
        return

    def notice(text: str) -> None:
        _log.info(text)

    async with embedded.running(Path(settings.data_dir), notice=notice) as url:
        yield url


async def install(url: str, settings: Settings, partitions: int = 1) -> bool:
    """Install the schema in an empty database; return whether it was empty."""
    with database_errors():
        connection = await asyncpg.connect(url, timeout=settings.database_timeout_s)
        try:
            return await database.install(connection, partitions)
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, secrets: Secrets, *, owner: bool = False
) -> AsyncGenerator[Runtime]:
    """Open the database, installing the schema if it is empty, and everything upon it.

    Only what makes or drops tables needs to be their `owner`.
    """
    async with database_url(settings) as url:
        if await install(url, settings):
            _log.info("schema installed", version=database.SCHEMA_VERSION)
        pool = await database.open_pool(
            url,
            size=settings.pool_connections_max,
            timeout_s=settings.database_timeout_s,
            takeover_s=settings.takeover_timeout_s,
            owner=owner,
        )
        try:
            keys = (secrets.master_key, secrets.previous_master_key)
            runtime = await _open(pool, settings, Source(url, *keys, settings.database_timeout_s))
            yield runtime
            await runtime.log.close()
        finally:
            await _close(pool, settings.shutdown_timeout_s)


async def _open(pool: Pool, settings: Settings, source: Source) -> Runtime:
    limits = AppenderLimits(
        settings.queue_rows_max, settings.batch_rows_max, settings.batch_bytes_max
    )
    master_key = source.master()
    log = await EventLog.open(pool, master_key, limits)
    return Runtime(settings, source, log, Quarantine(pool, log.partitions, master_key))


async def _close(pool: Pool, timeout_s: float) -> None:
    try:
        with database_errors():
            async with asyncio.timeout(timeout_s):
                await pool.close()
    except Exception:  # noqa: BLE001 - nothing is left to be saved by waiting longer
        pool.terminate()
