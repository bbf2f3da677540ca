"""Bearer tokens, and what each opens.

The database has a token's hash only. Each process keeps the few that there are in memory and reads
them again every few seconds, so a revoked token opens nothing after `REFRESH_S`. For an unknown one
they are read at once, as it may have been made just now, but not twice within `_PAUSE_S`: a flood
of wrong tokens waits, and costs the database little.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import secrets as randomness
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.config.secret_files import Secrets
    from eventstore.postgres.pool import Pool

_SQL = statements.load("api.web")
_PREFIX = "userlog"
REFRESH_S = 5.0
_PAUSE_S = 0.5
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

    def allows(self, scope: Scope, application_id: str | None) -> bool:
        """Say whether this is enough; a request about no application needs one for all."""
        if not self.scopes & {scope, Scope.ADMIN}:
            return False
        return self.applications is None or application_id in self.applications


EVERYTHING = Access(frozenset(Scope))


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

    def __init__(self, pool: Pool, secrets: Secrets | None = None) -> None:
        """The token among the secrets opens everything."""
        self._pool = pool
        self._secrets = secrets
        self._known: dict[str, tuple[bytes, Access]] = {}
        self._read_at = -float("inf")
        self._noted_at = time.monotonic()
        self._used: dict[str, datetime] = {}
        self._reading = asyncio.Lock()

    async def access(self, token: str) -> Access | None:
        """Return what a token opens, None if nothing; UnavailableError if the database is away."""
        digest = _hash(token)
        configured = self._secrets.api_token if self._secrets else None
        if configured is not None and hmac.compare_digest(digest, _hash(configured)):
            return EVERYTHING
        prefix, _, rest = token.partition("_")
        token_id = rest.partition("_")[0]
        if prefix != _PREFIX:
            return None
        if token_id in self._known:
            await self._refresh(since=time.monotonic() - REFRESH_S)
        else:
            await self._refresh(since=time.monotonic(), pause_s=_PAUSE_S)
        known, access = self._known.get(token_id, (b"", None))
        if access is None or not hmac.compare_digest(digest, known):
            return None
        self._used[token_id] = datetime.now(UTC)
        return access

    async def _refresh(self, since: float, pause_s: float = 0) -> None:
        """Read the tokens unless they have been read `since`; not sooner than after a pause."""
        await asyncio.sleep(max(0, self._read_at + pause_s - time.monotonic()))
        async with self._reading:
            if self._read_at >= since:
                return
            read_at = time.monotonic()
            if self._used and read_at - self._noted_at > _NOTE_USE_S:
                await self.note_use()
            with database_errors():
                rows = await self._pool.fetch(_SQL["tokens"])
            self._known = {
                row["id"]: (row["hash"], _access(row["scopes"], row["applications"]))
                for row in rows
                if row["revoked_at"] is None
            }
            self._read_at = read_at

    async def note_use(self) -> None:
        """Write down which tokens were used since the last time."""
        used, self._used = self._used, {}
        self._noted_at = time.monotonic()
        if used:
            with database_errors():
                await self._pool.execute(_SQL["tokens_used"], list(used), list(used.values()))

    async def create(
        self, name: str, scopes: Sequence[Scope], applications: Sequence[str] | None
    ) -> str:
        """Make a token and return it; it can't be shown again."""
        token_id = randomness.token_hex(4)
        token = f"{_PREFIX}_{token_id}_{randomness.token_urlsafe()}"
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


def _hash(token: str) -> bytes:
    """Hash a token; it is random and long, so nothing slower is needed."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _access(scopes: list[str], applications: list[str] | None) -> Access:
    limits = None if applications is None else frozenset(applications)
    return Access(frozenset(scopes), limits)
