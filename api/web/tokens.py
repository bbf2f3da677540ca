"""Bearer tokens, and what each opens.

The database has a token's hash only. Each process keeps the few that there are in memory, by their
hashes, and reads them again every few seconds. A token that is not in memory may have been made
just now, so all tokens are read once more, once for all who ask at that time; but not for one whose
check part is wrong: it was never made. So a flood of made-up tokens costs the database nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import hmac
import re
import secrets as randomness
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from api.web.single_flight import SingleFlight
from eventstore.errors import UnavailableError, database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import asyncpg

    from api.config.secret_files import Secrets
    from eventstore.postgres.pool import Pool
    from eventstore.sealing.keys import MasterKey

_SQL = statements.load("api.web")
_PREFIX = "userlog"
# A token, and its check part; tokens of earlier versions have none.
_SHAPE = re.compile(r"(userlog_[0-9a-f]{8}_[\w-]{43})(?:\.([0-9a-f]{12}))?", re.ASCII)
# How old the tokens in memory may be for an answer, and for a request that lasts.
REFRESH_S = 5.0
_WATCH_S = 0.4
# Between two readings, and the longest that one is waited for by a token that is not in memory.
_PAUSE_S = 0.1
_LOOK_UP_S = 0.2
_NOTE_USE_S = 60.0


class Scope(enum.StrEnum):
    """What a token may be made for; `admin` includes the rest."""

    READ = "read"
    ERASE = "erase"
    ADMIN = "admin"


class Access(msgspec.Struct, frozen=True):
    """What a token opens; `applications` are None for all of them."""

    scopes: frozenset[str]
    applications: frozenset[str] | None = None
    token_id: str = ""
    digest: bytes = b""
    name: str = "USERLOG_API_TOKEN"

    def allows(self, scope: Scope, application_id: str | None) -> bool:
        """Say whether this is enough; a request about no application needs one for all."""
        if not self.scopes & {scope, Scope.ADMIN}:
            return False
        return self.applications is None or application_id in self.applications


class Token(msgspec.Struct, frozen=True):
    """What is known of a token."""

    id: str
    name: str
    scopes: list[str]
    applications: list[str] | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class Tokens:
    """Checks, makes, lists and revokes tokens."""

    def __init__(self, pool: Pool, master_key: MasterKey, secrets: Secrets | None = None) -> None:
        """The master key makes the check parts. The token among the secrets opens everything."""
        self._pool = pool
        self._master_key = master_key
        self._secrets = secrets
        self._known: dict[bytes, Access] = {}
        self._read_at = -float("inf")
        self._used: dict[str, datetime] = {}
        self._noting: asyncio.Task[None] | None = None
        self._reading = SingleFlight(self._read, _PAUSE_S)
        self._watched: dict[asyncio.Event, bytes] = {}
        self._watching: asyncio.Task[None] | None = None

    async def access(self, token: str) -> Access | None:
        """Return what a token opens, None if nothing; UnavailableError if that can't be known."""
        digest = _hash(token)
        access = self._configured(digest)
        if access is not None:
            return access
        now = time.monotonic()
        # The first time: until then no token is known here, and one from before a rotation of the
        # master key has a check part of the former one.
        await self._refresh(since=0)
        if digest not in self._known and not self._may_exist(token):
            return None
        if digest in self._known:
            await self._refresh(since=now - REFRESH_S)
        else:
            await self._look_up(now)
        access = self._known.get(digest)
        if access is not None:
            self._used[access.token_id] = datetime.now(UTC)
            if self._noting is None:
                self._noting = asyncio.create_task(self._note_soon(), name="tokens used")
        return access

    def remembered(self, token: str) -> Access | None:
        """Return what a token opened when the tokens could be read last, None if nothing."""
        return self._known.get(_hash(token))

    async def _note_soon(self) -> None:
        """Note the use of a while at once."""
        try:
            await asyncio.sleep(_NOTE_USE_S)
            with contextlib.suppress(UnavailableError):
                await self.note_use()
        finally:
            self._noting = None

    def _configured(self, digest: bytes) -> Access | None:
        configured = self._secrets.api_token if self._secrets else None
        if configured is None or not hmac.compare_digest(digest, _hash(configured)):
            return None
        return Access(frozenset(Scope), digest=digest)

    def _may_exist(self, token: str) -> bool:
        """Say whether this may be a token that was made since; older ones have no check part."""
        shape = _SHAPE.fullmatch(token)
        if shape is None:
            return False
        made, check = shape.groups()
        return check is None or self._master_key.checks(made.encode(), bytes.fromhex(check))

    async def _look_up(self, since: float) -> None:
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                await self._refresh(since=since)
        except TimeoutError:
            raise UnavailableError("the tokens could not be read in time") from None

    async def still_open(self, access: Access) -> bool:
        """Say whether a token still opens anything, as of a moment ago."""
        if self._configured(access.digest) is not None:
            return True
        await self._refresh(since=time.monotonic() - 2 * _WATCH_S)
        return access.digest in self._known

    @contextlib.asynccontextmanager
    async def watched(self, access: Access) -> AsyncGenerator[asyncio.Event]:
        """Yield an event that is set as soon as the token opens nothing any more."""
        ended = asyncio.Event()
        self._watched[ended] = access.digest
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="tokens")
        try:
            yield ended
        finally:
            del self._watched[ended]

    async def _watch(self) -> None:
        try:
            while self._watched:
                with contextlib.suppress(UnavailableError):
                    await self._refresh(since=time.monotonic() - _WATCH_S)
                for ended, digest in self._watched.items():
                    if digest not in self._known and self._configured(digest) is None:
                        ended.set()
                await asyncio.sleep(_WATCH_S)
        finally:
            self._watching = None  # also after a defect: the next to be watched begins another

    async def close(self) -> None:
        """End what runs in the background, and note which tokens were used."""
        for task in filter(None, (self._watching, self._noting)):
            task.cancel()
            await asyncio.wait([task])
        await self._reading.close()
        await self.note_use()

    async def _refresh(self, since: float) -> None:
        """Read the tokens unless they have been read `since`, once for all who wait."""
        if self._read_at < since:
            await self._reading.result()

    async def _read(self) -> None:
        read_at = time.monotonic()
        with database_errors():
            rows = await self._pool.fetch(_SQL["tokens"])
        self._known = {row["hash"]: _access(row) for row in rows if row["revoked_at"] is None}
        self._read_at = read_at

    async def note_use(self) -> None:
        """Write down which tokens were used since the last time."""
        if used := dict(self._used):
            with database_errors():
                await self._pool.execute(_SQL["tokens_used"], list(used), list(used.values()))
            for token_id, at in used.items():
                if self._used[token_id] == at:
                    del self._used[token_id]

    async def create(
        self, name: str, scopes: Sequence[Scope], applications: Sequence[str] | None
    ) -> str:
        """Make a token and return it; it can't be shown again."""
        token_id = randomness.token_hex(4)
        made = f"{_PREFIX}_{token_id}_{randomness.token_urlsafe()}"
        token = f"{made}.{self._master_key.check_of(_bytes(made)).hex()}"
        limits = None if applications is None else list(applications)
        with database_errors():
            await self._pool.execute(
                _SQL["token_new"], token_id, _hash(token), name, list(scopes), limits
            )
        return token

    async def all(self) -> list[Token]:
        """Return all there ever were, the newest first."""
        with database_errors():
            rows = await self._pool.fetch(_SQL["tokens"])
        return [Token(**{k: v for k, v in row.items() if k != "hash"}) for row in rows]

    async def revoke(self, token_id: str) -> bool:
        """Revoke a token; return whether there is one of this id."""
        with database_errors():
            found = await self._pool.fetchval(_SQL["token_revoke"], token_id)
        return found is not None


def _bytes(token: str) -> bytes:
    return token.encode(errors="replace")


def _hash(token: str) -> bytes:
    """Hash a token; it is random and long, so nothing slower is needed."""
    return hashlib.sha256(_bytes(token)).digest()


def _access(row: asyncpg.Record) -> Access:
    limits = None if row["applications"] is None else frozenset(row["applications"])
    return Access(frozenset(row["scopes"]), limits, row["id"], row["hash"], row["name"])
