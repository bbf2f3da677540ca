"""Parameters of requests: each declared once, to be read and to be described.

All are read before a handler is called, so that every mistake is in one answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec
from multidict import MultiDict

from api.web import rules
from api.web.problems import ParameterError, bad_parameters
from api.web.rules import Rule
from projections.query.search import EVER, LIFECYCLES
from projections.query.users import Order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from multidict import MultiMapping

    from eventstore.events import Position
    from projections.fold.state import Lifecycle
    from projections.query import search, users

T = TypeVar("T")
Maybe: TypeAlias = "Parameter[T | None]"
_ROWS = 100
_WAIT_S_MAX = 60
_NAME_CHARACTERS_MAX = 40


class Parameter(msgspec.Struct, Generic[T], frozen=True):
    """A parameter of a request; `default` is what it means if it is not given."""

    name: str
    rule: Rule[T]
    description: str
    default: T
    example: Any = None
    location: Literal["query", "header", "path"] = "query"


class Params:
    """The parameters of one request."""

    def __init__(
        self,
        known: Sequence[Parameter[Any]],
        query: MultiMapping[str],
        headers: Mapping[str, str],
        *,
        strict: bool = True,
    ) -> None:
        """Read those that are known; a problem names each that is wrong, or unknown if `strict`."""
        self._errors: list[ParameterError] = []
        self._values = {one.name: self._read(one, query, headers) for one in known}
        if strict:
            self._refuse_unknown([one.name for one in known if one.location == "query"], query)
        if self._errors:
            raise bad_parameters(self._errors)

    def __getitem__(self, parameter: Parameter[T]) -> T:
        """Return what a parameter means in this request; KeyError if it is not one of its own."""
        value: T = self._values[parameter.name]
        return value

    def _read(
        self, parameter: Parameter[T], query: MultiMapping[str], headers: Mapping[str, str]
    ) -> T:
        name = parameter.name
        if parameter.location == "header":
            given = [headers[name]] if name in headers else []
        else:
            given = query.getall(name, [])
        if not given:
            return parameter.default
        if len(given) > 1:
            self._errors.append(ParameterError(name, "given more than once"))
            return parameter.default
        try:
            return parameter.rule.read(given[0])
        except ValueError as error:
            self._errors.append(ParameterError(name, str(error)))
            return parameter.default

    def _refuse_unknown(self, known: list[str], query: MultiMapping[str]) -> None:
        listed = ", ".join(known) or "none"
        for name in dict.fromkeys(query):
            if name not in known:
                plain = name.isidentifier() and len(name) <= _NAME_CHARACTERS_MAX
                shown = name if plain else "a parameter"
                self._errors.append(ParameterError(shown, f"unknown; known here: {listed}"))


# The parameters of a request that has none.
NOTHING = Params((), MultiDict(), {})


VALID_AT: Maybe[datetime] = Parameter(
    "valid_at",
    rules.TIME,
    "only what had happened by then, inclusive",
    None,
    "2023-06-13T09:48:47.621Z",
)
KNOWN_AT: Maybe[datetime] = Parameter(
    "known_at",
    rules.TIME,
    "only what had been recorded by then, inclusive; together with `valid_at`: both",
    None,
)
ORDER: Parameter[Order] = Parameter(
    "order", rules.one_of(get_args(Order)), "oldest first, or newest", "asc"
)
EMAIL: Maybe[str] = Parameter("email", rules.TEXT, "whole, in any case", None, "jo@example.com")
PHONE: Maybe[str] = Parameter(
    "phone", rules.TEXT, "with or without country code, leading zeros and signs", None, "5550001"
)
USERNAME: Maybe[str] = Parameter("username", rules.TEXT, "whole, in any case", None)
LIFECYCLE: Maybe[Lifecycle] = Parameter(
    "lifecycle", rules.one_of(LIFECYCLES), "users who are this now", None
)
UPDATED_SINCE: Parameter[datetime] = Parameter(
    "updated_since", rules.TIME, "users whose newest event occurred then or later", EVER
)
FROM: Maybe[date] = Parameter(
    "from", rules.DAY, "first day; if not given, 29 days before the last", None, "2023-06-01"
)
TO: Maybe[date] = Parameter(
    "to", rules.DAY, "last day, inclusive; if not given, today in UTC", None, "2023-06-30"
)
_NEXT = "`next` of the page before"
HISTORY_AFTER: Maybe[users.PageKey] = Parameter("after", rules.HISTORY_PAGE_KEY, _NEXT, None)
SEARCH_AFTER: Maybe[search.PageKey] = Parameter("after", rules.SEARCH_PAGE_KEY, _NEXT, None)
WAIT_S: Parameter[int] = Parameter(
    "wait_s",
    rules.number(0, _WAIT_S_MAX),
    "if there is nothing yet, wait for so many seconds at most",
    0,
)


IDS = {
    "application_id": Parameter(
        "application_id", rules.ID, "the sales channel", "", "000000000000000000000001", "path"
    ),
    "user_id": Parameter(
        "user_id",
        rules.ID,
        "the user's id in that sales channel",
        "",
        "6487fc9f66a6031a8b68f523",
        "path",
    ),
}


def limit(rows_max: int) -> Parameter[int]:
    """How many to answer with, of as many as a page may hold."""
    return Parameter("limit", rules.number(1, rows_max), "how many on a page", min(_ROWS, rows_max))


class PositionParams:
    """Parameters that name a position in a log of so many partitions."""

    def __init__(self, partitions: int) -> None:
        """Positions in other partitions are refused."""
        position = rules.position(partitions)
        self.min_position: Maybe[Position] = Parameter(
            "min_position",
            position,
            "wait until the read model has reached this position: read your own writes",
            None,
            "0:1",
        )
        self.after: Maybe[Position] = Parameter(
            "after",
            position,
            "go on after this position; if not given, from the first",
            None,
            "0:1",
        )
        self.resumed: Maybe[Position] = Parameter(
            "Last-Event-ID",
            position,
            "of a stream: the same as `after`, and before it",
            None,
            "0:1",
            "header",
        )
        self.partition: Maybe[int] = Parameter(
            "partition",
            rules.number(0, partitions - 1),
            "which part of the log, if there are several and no `after`",
            None,
        )
