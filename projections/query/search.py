"""An application's users, found by what is known of them now, the most recently changed first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain, product
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from eventstore.errors import database_errors
from eventstore.postgres import statements
from projections.fold.events import milliseconds
from projections.fold.search_keys import What
from projections.fold.state import LIFECYCLE_NUMBERS, LIFECYCLES, Lifecycle
from projections.project.search_key import known_search_key
from projections.query.users import FOREVER, PAGE_BYTES_MAX
from projections.query.views import Users, user_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from eventstore.log import EventLog
    from eventstore.postgres.pool import Pool
    from projections.query.views import User

_SQL = statements.load("projections.query")
EVER = datetime.min.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL = (FOREVER, 2**31 - 1, 0)
_PAGE_KEY = re.compile(r"(-?[0-9]{1,15})-([0-9]{1,4})-([0-9]{1,18})")

# Where a user stands in a list: when they last changed, and the event that did it, as its partition
# and the number of its position.
PageKey: TypeAlias = tuple[datetime, int, int]


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


async def search(log: EventLog, pool: Pool, wanted: Wanted, page: Page = FIRST_PAGE) -> Users:
    """Return a page of an application's users; none if a value has nothing to look for."""
    application_id = wanted.application_id
    if "\0" in application_id:  # which no text in the database can hold
        return Users([], None)
    numbers = list(range(log.partitions))
    lifecycles = (wanted.lifecycle,) if wanted.lifecycle else LIFECYCLES
    life = [LIFECYCLE_NUMBERS[one] for one in lifecycles]
    rest = (application_id, life, wanted.changed_since, *(page.after or _BEFORE_ALL))
    limits = (page.limit + 1, page.bytes_max)
    values: list[tuple[What, str]] = [
        (what, value) for what, value in wanted.values.items() if value is not None
    ]
    if values:
        each, terms = len(values), await _terms(log, values)
        with database_errors():
            rows = await pool.fetch(_SQL["users_found"], numbers, each, terms, *rest, *limits)
    else:
        with database_errors():
            rows = await pool.fetch(_SQL["users_listed"], numbers, *rest, *limits)
    shown: list[User] = []
    size = 0
    for row in rows[: page.limit]:
        user = user_of(row, log.keyring)
        size += memoryview(user.state).nbytes
        if shown and size > page.bytes_max:
            break
        shown.append(user)
    following = None
    if shown and rows[0]["found"] > len(shown):
        last = rows[len(shown) - 1]
        at = milliseconds(last["occurred_at"])
        following = f"{at}-{last['partition']}-{last['position']}"
    return Users(shown, following)


async def _terms(log: EventLog, values: Sequence[tuple[What, str]]) -> list[uuid.UUID]:
    """Return the terms of all values, of which a user has all, several times if there are choices.

    Empty if a value has nothing to look for, or there are no users yet.
    """
    key = await known_search_key(log)
    if key is None:
        return []
    choices = product(*(key.asked(what, value) for what, value in values))
    return list(chain.from_iterable(choices))


def parse_page_key(text: str) -> PageKey:
    """Read a page's `next`; ValueError for anything else."""
    found = _PAGE_KEY.fullmatch(text)
    try:
        at = _EPOCH + timedelta(milliseconds=int(found[1])) if found else None
    except OverflowError:
        at = None
    if not found or at is None:
        raise ValueError("give back `next` of the page before, unchanged")
    return at, int(found[2]), int(found[3])
