"""Keys of the log's own, beside the users': random, each for one purpose, in the table of keys.

They are wrapped by the master key, so a rotation wraps them anew and what was made with them stays
good: what a master key would be derived from changes with it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal, TypeAlias

from eventstore.errors import LogError, SealBrokenError, database_errors
from eventstore.postgres import statements
from eventstore.sealing.current_key import check, with_current_key
from eventstore.sealing.keys import KEY_BYTES

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool
    from eventstore.postgres.sessions import Connection
    from eventstore.sealing.keys import MasterKey

    # search: terms that users are found by. quarantine: ids of what could not be read. audit: who
    # did what, and why. signing: heads.
    Name: TypeAlias = Literal["search", "quarantine", "audit", "signing"]

_SQL = statements.load("eventstore.sealing")
_NEXT_SQL = statements.load("eventstore.sealing", "next.sql")
# Whose fingerprint decides: a new key is wrapped by the master key of the first partition.
_PARTITION = 0


class OwnKeys:
    """Finds and makes keys; kept once found, since they never change."""

    def __init__(self, pool: Pool, master_key: MasterKey) -> None:
        self._pool = pool
        self.master = master_key
        self._found: dict[str, bytes] = {}
        # Where an upgrade keeps those of a log that has no place for them yet.
        self.of_upgrade = False

    async def find(self, name: Name) -> bytes | None:
        """Return a key's 32 bytes; None if there is none yet.

        MasterKeyMovedError if a master key that is not held has wrapped it, SealBrokenError if it
        was altered.
        """
        if name not in self._found:
            with database_errors():
                statement = _NEXT_SQL["own_key_next"] if self.of_upgrade else _SQL["own_key"]
                wrapped: bytes | None = await self._pool.fetchval(statement, name)
            if wrapped is None:
                return None
            try:
                self._found[name] = self.master.unwrap_secret(wrapped, name.encode())
            except SealBrokenError as error:
                if not self.of_upgrade:  # whose log may have no fingerprints
                    with database_errors():
                        await check(self._pool, self.master)
                raise SealBrokenError(f"the log's key `{name}` {error}") from error
        return self._found[name]

    async def find_or_make(self, name: Name) -> bytes:
        """Return a key's 32 bytes; of two processes that make it at once, one does."""
        while (found := await self.find(name)) is None:

            async def make() -> None:
                wrapped = self.master.wrap_secret(secrets.token_bytes(KEY_BYTES), name.encode())
                await self._pool.execute(_SQL["key_make"], name, self.master.current, wrapped)

            with database_errors():
                await with_current_key(self._pool, _PARTITION, self.master, make)
        return found


async def make_for_upgrade(connection: Connection, master_key: MasterKey, name: Name) -> None:
    """Put the log's key beside new read models that an upgrade fills; make it if there is none.

    LogError if there is one that the master key does not open.
    """
    wrapped: bytes | None = None
    if await connection.fetchval(_NEXT_SQL["has_own_keys"]):
        wrapped = await connection.fetchval(_SQL["own_key"], name)
    if wrapped is None:
        wrapped = master_key.wrap_secret(secrets.token_bytes(KEY_BYTES), name.encode())
    await connection.execute(_NEXT_SQL["own_key_next_make"], name, wrapped)
    try:
        await made_for_upgrade(connection, master_key)
    except SealBrokenError as error:
        raise LogError(
            "the new read models were begun with another master key: `userlog upgrade --drop`"
            " removes them, and another upgrade makes them anew"
        ) from error


async def made_for_upgrade(connection: Connection, master_key: MasterKey) -> dict[str, bytes]:
    """Return the keys that were made for new read models, by their names."""
    return {
        row["name"]: master_key.unwrap_secret(row["wrapped"], row["name"].encode())
        for row in await connection.fetch(_NEXT_SQL["own_keys_next"])
    }


async def keep(connection: Connection, master_key: MasterKey, made: dict[str, bytes]) -> None:
    """Put keys into their place, wrapped by the master key that is in use."""
    for name, secret in made.items():
        wrapped = master_key.wrap_secret(secret, name.encode())
        await connection.execute(_NEXT_SQL["own_key_keep"], name, master_key.current, wrapped)
