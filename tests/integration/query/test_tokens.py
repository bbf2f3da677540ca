"""Bearer tokens: whom they let in, and to what."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from api.config.secret_files import Secrets
from api.web import tokens as tokens_module
from api.web.tokens import Scope, Tokens
from eventstore.sealing.keys import MasterKey
from tests.conftest import MASTER_KEY
from tests.support.deliveries import APP
from tests.support.proxy import proxied
from tests.support.serving import serving
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from tests.conftest import Stack

    Ask = Callable[[str, str, str], Awaitable[int]]

OTHER = "000000000000000000000002"
USER = "/v1/applications/{}/users/u"
PATHS = {
    ("GET", USER.format(APP)): {"read here", "read all", "admin here", "admin all"},
    ("HEAD", USER.format(APP)): {"read here", "read all", "admin here", "admin all"},
    ("GET", USER.format(APP) + "/history"): {"read here", "read all", "admin here", "admin all"},
    ("GET", USER.format(OTHER)): {"read all", "admin all"},
    ("DELETE", USER.format(APP) + "/personal-data"): {
        *("erase here", "erase all", "admin here", "admin all"),
    },
    ("GET", "/v1/status"): {"read all", "admin all"},
}


@contextlib.asynccontextmanager
async def asking_at(url: str) -> AsyncGenerator[Ask]:
    """Serve, and ask with a token."""
    secrets = Secrets(["secret"], MASTER_KEY, None, None, [])
    async with serving(url, secrets=secrets) as service:

        async def ask(method: str, path: str, token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return (await service.call(method, path, headers=headers)).status

        yield ask


async def made(stack: Stack, name: str, scopes: list[Scope], applications: list[str] | None) -> str:
    """Make a token, as an owner of the schema."""
    return await Tokens(stack.admin, MasterKey(MASTER_KEY)).create(name, scopes, applications)


@pytest.fixture
async def ask(stack: Stack) -> AsyncIterator[Ask]:
    """Ask a service on a log that knows nobody: who is let in gets a 404."""
    async with asking_at(stack.url) as asking:
        yield asking


@pytest.mark.parametrize("method_path", PATHS, ids=" ".join)
async def test_what_a_token_opens(stack: Stack, ask: Ask, method_path: tuple[str, str]) -> None:
    """A token opens what its scopes say, of its applications, and nothing else."""
    allowed: set[str] = set()
    for scope in Scope:
        for where, applications in (("here", [APP]), ("all", None)):
            token = await made(stack, "x", [scope], applications)
            status = await ask(*method_path, token)
            assert status in (200, 403, 404)
            if status != 403:
                allowed.add(f"{scope} {where}")
    assert allowed == PATHS[method_path]


async def test_several_scopes(stack: Stack) -> None:
    """A token can have several scopes and applications."""
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    access = await tokens.access(await made(stack, "x", [Scope.READ, Scope.ERASE], [APP, OTHER]))
    assert access
    assert all(access.allows(s, a) for s in (Scope.READ, Scope.ERASE) for a in (APP, OTHER))
    assert not access.allows(Scope.ADMIN, APP)
    assert not access.allows(Scope.READ, "000000000000000000000003")


async def test_revoked(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked token opens nothing as soon as tokens are looked at again, and stays listed."""
    tokens, other = (
        Tokens(stack.pool, MasterKey(MASTER_KEY)),
        Tokens(stack.pool, MasterKey(MASTER_KEY)),
    )
    token = await made(stack, "x", [Scope.READ], None)
    (listed,) = await tokens.all()
    assert await tokens.access(token)
    assert await other.revoke(listed.id)
    assert await tokens.access(token), "looked at again before it is time"
    monkeypatch.setattr(tokens_module, "REFRESH_S", -1)
    assert await tokens.access(token) is None
    (listed,) = await tokens.all()
    first = listed.revoked_at
    assert first
    assert await other.revoke(listed.id)
    assert (await tokens.all())[0].revoked_at == first
    assert not await other.revoke("none")


async def test_wrong_tokens(stack: Stack) -> None:
    """Whatever is not exactly a token opens nothing."""
    tokens = Tokens(
        stack.pool, MasterKey(MASTER_KEY), Secrets([], MASTER_KEY, None, "configured", [])
    )
    token = await made(stack, "x", [Scope.ADMIN], None)
    other = await made(stack, "y", [Scope.ADMIN], None)
    (_, token_id, secret), (_, other_id, _) = token.split("_", 2), other.split("_", 2)
    for wrong in (
        *("", "userlog", "userlog_", f"userlog_{token_id}", f"userlog_{token_id}_"),
        *(token[:-1], token + "x", token.upper(), f"userlog_{other_id}_{secret}", secret),
        *("configure", "configured ", "\udcff", f"x{token}"),
    ):
        assert await tokens.access(wrong) is None, wrong
    assert await tokens.access(token)
    everything = await tokens.access("configured")
    assert everything
    assert all(everything.allows(scope, where) for scope in Scope for where in (APP, None))


async def test_nothing_configured(ask: Ask) -> None:
    """Without a configured token, no empty one opens anything either."""
    for token in ("", "None", "null"):
        assert await ask("GET", "/v1/status", token) == 401
    assert await ask("GET", "/no/such/path", "") == 404


async def test_kept_as_hash(stack: Stack) -> None:
    """What the database keeps does not give the token back."""
    token = await Tokens(stack.admin, MasterKey(MASTER_KEY)).create("x", [Scope.READ], None)
    (row,) = await stack.admin.fetch("SELECT t::text FROM userlog.tokens t")
    assert token.split("_", 2)[2] not in row[0]


async def test_last_use(stack: Stack) -> None:
    """When a token was last used is written down when the service stops at the latest."""
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    token = await made(stack, "x", [Scope.READ], None)
    assert (await tokens.all())[0].last_used_at is None
    async with asking_at(stack.url) as asking:
        assert await asking("GET", "/v1/status", token) == 200
    (listed,) = await tokens.all()
    assert listed.last_used_at
    assert listed.last_used_at >= listed.created_at


async def test_a_single_use_is_noted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the token is never used again, while the service runs on."""
    monkeypatch.setattr(tokens_module, "_NOTE_USE_S", 0.01)
    token = await made(stack, "x", [Scope.READ], None)
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    assert await tokens.access(token)

    async def noted() -> bool:
        return (await tokens.all())[0].last_used_at is not None

    await until(noted)
    await tokens.close()


class Counting:
    """A pool that counts what it is asked for."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.count = 0

    async def fetch(self, *args: Any) -> Any:
        self.count += 1
        return await self._pool.fetch(*args)


async def test_a_flood_of_wrong_tokens_asks_the_database_little(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For tokens that nobody made the database is asked once, for old ones once for all."""
    monkeypatch.setattr(tokens_module, "_LOOK_UP_S", PATIENCE_S)
    pool: Any = Counting(stack.pool)
    key = MasterKey(MASTER_KEY)
    tokens = Tokens(pool, key)
    good = await Tokens(stack.admin, key).create("x", [Scope.READ], None)
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    for made_up in (wrong, "userlog_1_y", good + "00"):
        assert await asyncio.gather(*map(tokens.access, 1_000 * [made_up])) == [None] * 1_000
    assert pool.count == 1
    for _ in range(2):
        flood = [tokens.access(f"userlog_{n:08x}_{43 * 'y'}") for n in range(1_000)]
        *others, found = await asyncio.gather(*flood, tokens.access(good))
        assert others == [None] * 1_000
        assert found
    assert pool.count == 3


async def test_who_asks_at_the_end_of_a_reading(stack: Stack) -> None:
    """One who asks when a reading has just ended waits for the next, and holds up nobody."""
    ending = asyncio.Event()

    class Ending(Counting):
        async def fetch(self, *args: Any) -> Any:
            rows = await super().fetch(*args)
            ending.set()  # who waits for that goes on before anybody hears of the reading's end
            return rows

    pool: Any = Ending(stack.pool)
    tokens = Tokens(pool, MasterKey(MASTER_KEY))

    async def ask(number: int) -> None:
        await ending.wait()
        assert await tokens.access(f"userlog_{number:08x}_{43 * 'y'}") is None

    asking = [asyncio.create_task(ask(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert await tokens.access(f"userlog_{0:08x}_{43 * 'z'}") is None
    await asyncio.gather(*asking)
    await tokens.close()


async def test_the_first_question_waits_for_the_tokens(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has just begun knows no token: it is no reason to refuse a good one."""
    monkeypatch.setattr(tokens_module, "_LOOK_UP_S", 0)
    token = await Tokens(stack.admin, MasterKey(MASTER_KEY)).create("x", [Scope.READ], None)
    assert await Tokens(stack.pool, MasterKey(MASTER_KEY)).access(token)


async def test_a_watch_begins_again_after_a_defect(stack: Stack) -> None:
    """Tokens that could not be read, for a reason that nothing expects, are watched again later."""
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    access = await tokens.access(await made(stack, "x", [Scope.READ], None))
    assert access
    async with tokens.watched(access):
        await stack.admin.execute("REVOKE SELECT ON userlog.tokens FROM userlog_app")
        await until(lambda: tokens._watching is None)
    await stack.admin.execute("GRANT SELECT ON userlog.tokens TO userlog_app")
    async with tokens.watched(access) as ended:
        assert await tokens.revoke(access.token_id)
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()


async def test_tokens_of_other_times(stack: Stack) -> None:
    """Tokens without a check part, and those of a former master key, go on working."""
    former = await Tokens(stack.admin, MasterKey(b"f" * 32)).create("x", [Scope.READ], None)
    plain = "userlog_00000001_" + 43 * "x"
    await stack.admin.execute(
        "INSERT INTO userlog.tokens (id, hash, name, scopes) VALUES ('1', $1, 'old', '{read}')",
        hashlib.sha256(plain.encode()).digest(),
    )
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    assert await tokens.access(former), "also of a process that has just begun"
    assert await tokens.access(plain)
    rotating = Tokens(stack.pool, MasterKey(MASTER_KEY, previous=b"f" * 32))
    assert await rotating.access(former), "not in memory yet"


async def test_database_away(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away no token is called wrong, and monitoring goes on with its own."""
    token = await Tokens(stack.admin, MasterKey(MASTER_KEY)).create("x", [Scope.READ], None)
    async with proxied(stack.url) as proxy, asking_at(proxy.url) as asking:
        assert await asking("HEAD", "/metrics", token) == 200
        proxy.cut()
        monkeypatch.setattr(tokens_module, "REFRESH_S", 0)  # what is known is too old
        assert await asking("GET", "/v1/status", token) == 503
        assert await asking("HEAD", "/metrics", token) == 200, "which says that it is away"
        assert await asking("HEAD", "/metrics", token[:-1]) == 401
        proxy.restore()

        async def answered() -> int | None:
            status = await asking("GET", "/v1/status", token)
            return status if status != 503 else None

        assert await until(answered) == 200


async def test_a_new_token_opens_a_running_service(
    stack: Stack, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is made while the service runs is good for the next request."""
    monkeypatch.setattr(tokens_module, "_LOOK_UP_S", PATIENCE_S)
    for _ in range(100):
        token = await Tokens(stack.admin, MasterKey(MASTER_KEY)).create("x", [Scope.READ], None)
        assert await ask("GET", "/v1/status", token) == 200
