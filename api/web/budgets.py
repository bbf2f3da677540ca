"""Budgets: how many requests of each kind there may be at once, and how many for one token.

Deliveries, answers, waits and streams each have their own, so that none can take another's. A
place is taken only once it is known who asks; it is given back with the answer, or as soon as
the reader has gone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api.web.problems import Problem, unavailable
from api.web.tokens import Access

if TYPE_CHECKING:
    from api.config.settings import Settings

_RETRY_AFTER_S = 1


class Budget:
    """So many requests of one kind."""

    def __init__(self, name: str, most: int, most_per_token: int | None = None) -> None:
        """`name` is what there are too many of."""
        self._name = name
        self._most = most
        self._most_per_token = most_per_token
        self._count = 0
        self._of_token: Counter[str] = Counter()

    def enter(self, token_id: str = "") -> None:
        """Take a place; Problem (503) if none is left, 429 if the token has had its part."""
        if self._count >= self._most:
            raise unavailable(f"too many {self._name}; send it again", _RETRY_AFTER_S)
        if self._most_per_token is not None and self._of_token[token_id] >= self._most_per_token:
            raise Problem(
                429,
                "Too much at once",
                f"this token has {self._most_per_token} {self._name} at once, which is the most",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )
        self.put(token_id)

    def put(self, token_id: str = "") -> None:
        """Take a place although there may be none."""
        self._count += 1
        if self._most_per_token is not None:
            self._of_token[token_id] += 1

    def leave(self, token_id: str = "") -> None:
        """Give a place back."""
        self._count -= 1
        if self._most_per_token is not None:
            self._of_token[token_id] -= 1
            if not self._of_token[token_id]:
                del self._of_token[token_id]


class Budgets(msgspec.Struct, frozen=True):
    """The budgets of a process."""

    deliveries: Budget
    reads: Budget
    waits: Budget
    streams: Budget

    @classmethod
    def of(cls, settings: Settings) -> Budgets:
        """Make those that the settings ask for."""
        return cls(
            Budget("deliveries", settings.deliveries_max),
            Budget("requests", settings.reads_max),
            Budget("waiting requests", settings.waits_max, settings.waits_per_token_max),
            Budget("streams", settings.streams_max, settings.streams_per_token_max),
        )


class Place:
    """The place that a request has in a budget."""

    __slots__ = ("_budget", "_token_id", "leaves")

    def __init__(self, budget: Budget, token_id: str, *, leaves: bool) -> None:
        """Made by `take`. If it `leaves`, its work is dropped when the client has gone."""
        budget.enter(token_id)
        self._token_id = token_id
        self._budget: Budget | None = budget
        self.leaves = leaves

    def move(self, budget: Budget) -> None:
        """Take a place in another budget, then give back the one before; see `Budget.enter`."""
        budget.enter(self._token_id)
        self.give_back()
        self._budget = budget

    def return_to(self, budget: Budget) -> None:
        """Go back to a budget that was left to wait; there is always room."""
        budget.put(self._token_id)
        self.give_back()
        self._budget = budget

    def give_back(self) -> None:
        """Give the place back."""
        if self._budget is not None:
            self._budget.leave(self._token_id)
            self._budget = None


# What is known of a request once its token is.
ACCESS = web.RequestKey("access", Access)
PLACE = web.RequestKey("place", Place)


def take(request: web.Request, budget: Budget, token_id: str = "", *, leaves: bool = False) -> None:
    """Take a request's first place, which it keeps until it is answered; see `Budget.enter`."""
    request[PLACE] = Place(budget, token_id, leaves=leaves)
