"""Pages, whatever they are bounded by, are one after the other what one page without bounds is."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.config.settings import Settings
from api.endpoints.feed import Feed
from api.web.budgets import Budgets
from api.web.lasting import Lasting
from api.web.tokens import Tokens
from eventstore.events import Place, Position
from eventstore.sealing.keys import MasterKey
from projections.project.projector import catch_up
from projections.query import search, users
from tests.conftest import MASTER_KEY
from tests.support.deliveries import encoded, entry, envelope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Stack

    # What a page shows, its size in bytes, and from where to go on.
    Shown = tuple[list[Any], int, Any]

_applications = (f"application-{n}" for n in itertools.count())
SIZES = st.lists(st.sampled_from([0, 1, 50, 2_000, 30_000]), min_size=1, max_size=8)
# None near the sum of a few small rows, which are a little larger sealed than opened: a page of the
# read model, which is bounded by both, may then be shorter than one from the log.
BOUNDS = st.sampled_from([1, 20, 700, 3_000, 40_000, 10**9])
ALL = 10**9
# What a small row is larger when it is sealed: the database counts it so.
SEALING_BYTES = 60
through_a_database = settings(
    max_examples=settings().max_examples // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


async def tell(stack: Stack, application: str, sizes: list[int], *, one_user: bool) -> None:
    """Deliver events with texts of these lengths, which can't be compressed, and project them."""
    noise = random.Random(0)
    for n, size in enumerate(sizes):
        text = noise.randbytes(size // 2).hex()
        user = entry("u" if one_user else f"u{n}", username="same", note=text, count=n)
        body = encoded(envelope([user], "update", n // 2, application))
        assert (await stack.ingest.deliver(body)).accepted == 1
    await catch_up(stack.log, 100)


async def pages(
    read: Callable[[int, int, Any], Awaitable[Shown]], limit: int, bytes_max: int
) -> None:
    """Follow pages to the end; each is as long as it may be, and together they are everything."""
    whole, _, beyond = await read(ALL, ALL, None)
    assert beyond is None
    assert len(whole) > 0
    found: list[Any] = []
    after = None
    while True:
        shown, size, after = await read(limit, bytes_max, after)
        assert 0 < len(shown) <= limit
        assert size <= bytes_max or len(shown) == 1
        found += shown
        if after is None:
            break
        _, following, _ = await read(1, ALL, after)
        sealing = SEALING_BYTES * (len(shown) + 1)
        assert len(shown) == limit or size + following + sealing > bytes_max
    assert found == whole


@given(
    sizes=SIZES, limit=st.integers(1, 9), bytes_max=BOUNDS, order=st.sampled_from(["asc", "desc"])
)
@through_a_database
async def test_histories(
    stack: Stack, sizes: list[int], limit: int, bytes_max: int, order: users.Order
) -> None:
    """A history from the read model and, the same page for page, one from the log."""
    application = next(_applications)
    await tell(stack, application, sizes, one_user=True)
    stream = stack.log.stream(application, "u")

    async def read(limit: int, bytes_max: int, after: Any) -> Shown:
        key = users.parse_page_key(after) if after else None
        page = users.Page(order, limit, key, bytes_max=bytes_max)
        found = await stack.read_model.history(stream, page=page)
        assert found == await stack.read_model.history(stream, users.FOREVER, page)
        size = sum(len(msgspec.json.encode(entry.changes)) for entry in found.entries)
        return found.entries, size, found.next

    await pages(read, limit, bytes_max)


@given(sizes=SIZES, limit=st.integers(1, 9), bytes_max=BOUNDS, searched=st.booleans())
@through_a_database
async def test_lists_of_users(
    stack: Stack, sizes: list[int], limit: int, bytes_max: int, searched: bool
) -> None:
    """The users of an application, and those with a username."""
    application = next(_applications)
    await tell(stack, application, sizes, one_user=False)
    wanted = search.Wanted(application, {"username": "same"} if searched else {})

    async def read(limit: int, bytes_max: int, after: Any) -> Shown:
        key = search.parse_page_key(after) if after else None
        page = search.Page(limit, key, bytes_max)
        found = await search.search(stack.log, stack.pool, wanted, page)
        return found.users, sum(len(bytes(user.state)) for user in found.users), found.next

    await pages(read, limit, bytes_max)


@given(sizes=SIZES, limit=st.integers(1, 9), bytes_max=BOUNDS)
@through_a_database
async def test_feeds(stack: Stack, sizes: list[int], limit: int, bytes_max: int) -> None:
    """The feed, from where these events begin."""
    (head,) = await stack.log.heads()
    await tell(stack, next(_applications), sizes, one_user=False)
    end = str(Position(0, head.position.number + len(sizes)))
    tokens = Tokens(stack.pool, MasterKey(MASTER_KEY))
    lasting = Lasting(tokens, Budgets.of(Settings()))

    async def read(limit: int, bytes_max: int, after: Any) -> Shown:
        begin = Place.parse(after) if after else Place(head.position)
        feed = Feed(stack.log, lasting, bytes_max)
        page = (await feed.page(begin, limit)).answer
        payloads = [
            one.payload or b"" for one in await stack.log.read(begin.position, len(page.events))
        ]
        done = page.next.startswith(f"{end}-")
        return page.events, sum(map(len, payloads)), None if done else page.next

    await pages(read, limit, bytes_max)
