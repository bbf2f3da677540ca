"""The key of a log's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.fold.search_keys import SearchKey

if TYPE_CHECKING:
    from eventstore.log import EventLog


async def search_key(log: EventLog) -> SearchKey | None:
    """Return the key that terms are made with; where there are events, it is made if there is none.

    Not before: of a log that nothing was written to, nothing decides yet which master key it is of.
    """
    known = await known_search_key(log)
    if known or not any(head.position.number for head in await log.heads()):
        return known
    return SearchKey(await log.own_keys.find_or_make("search"))


async def known_search_key(log: EventLog) -> SearchKey | None:
    """Return the key that terms are made with, if there are any."""
    secret = await log.own_keys.find("search")
    return None if secret is None else SearchKey(secret)
