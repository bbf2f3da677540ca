"""An application's users, found by what is known of them now, the most recently changed first."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, get_args

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.fold.events import milliseconds
from projections.fold.search_keys import What, term
from projections.fold.state import Lifecycle
from projections.query.users import FOREVER, PAGE_BYTES_MAX
from projections.query.views import Users, user_of

if TYPE_CHECKING:
    from eventstore.postgres.pool import Pool

_SQL = statements.load("projections.query")
EVER = datetime.min.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_ID = uuid.UUID(int=2**128 - 1)
_PAGE_KEY = re.compile(r"(-?[0-9]{1,15})-([0-9a-f]{32})")
LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)

# Where a user stands in a list: when they last changed, and their stream.
PageKey: TypeAlias = tuple[datetime, uuid.UUID]


class Wanted(msgspec.Struct, frozen=True):
    """Whom to look for: users of an application of whom all of this is true.

    `values` are e-mail, phone and username, None for any. `changed_since` compares with the time at
    which the newest event of a user occurred, inclusively.
    """

    application_id: str
    values: Mapping[What, str | None] = {}
    lifecycle: Lifecycle | None = None
    changed_since: datetime = EVER


class Page(msgspec.Struct, frozen=True):
    """Which part of a list to return: what follows `after`, the page key of the page before.

    At most `limit` users, and no more than have `bytes_max` bytes of state, but one at least.
    """

    limit: int = 100
    after: PageKey | None = None
    bytes_max: int = PAGE_BYTES_MAX


FIRST_PAGE = Page()


async def search(pool: Pool, partitions: int, wanted: Wanted, page: Page = FIRST_PAGE) -> Users:
    """Return a page of an application's users; none if a value has nothing to look for."""
    application_id = wanted.application_id
    if "\0" in application_id:  # which no text in the database can hold
        return Users([], None)
    numbers = list(range(partitions))
    lifecycles = [wanted.lifecycle] if wanted.lifecycle else list(LIFECYCLES)
    terms = [
        term(application_id, what, value)
        for what, value in wanted.values.items()
        if value is not None
    ]
    after = page.after or (FOREVER, _LAST_ID)
    rest = (lifecycles, wanted.changed_since, *after, page.limit + 1, page.bytes_max)
    with database_errors():
        if None in terms:
            rows = []
        elif terms:
            args = (numbers, terms[0], terms[1:], *rest)
            rows = await pool.fetch(_SQL["users_found"], *args)
        else:
            rows = await pool.fetch(_SQL["users_listed"], numbers, application_id, *rest)
    following = None
    shown = rows[: page.limit]
    if shown and shown[0]["found"] > len(shown):
        last = shown[-1]
        following = f"{milliseconds(last['occurred_at'])}-{last['stream_id'].hex}"
    return Users([user_of(row) for row in shown], following)


def parse_page_key(text: str) -> PageKey:
    """Read a page's `next`; ValueError for anything else."""
    found = _PAGE_KEY.fullmatch(text)
    try:
        at = _EPOCH + timedelta(milliseconds=int(found[1])) if found else None
    except OverflowError:
        at = None
    if not found or at is None:
        raise ValueError("give back `next` of the page before, unchanged")
    return at, uuid.UUID(found[2])
