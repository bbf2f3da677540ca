"""Parameters of requests: a Struct for each request, read field by field.

All are read before a handler is called, so that every mistake is in one answer. A field's type
and its `Meta` are what is read and what the description shows; where JSON knows no such type, a
`Rule` stands beside them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta, inspect

from api.web.problems import ParameterError, bad_parameters
from api.web.times import parse_day, parse_time
from eventstore.events import Place, Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multidict import MultiMapping

Schema: TypeAlias = dict[str, Any]
_NAME_CHARACTERS_MAX = 40
_ROWS = 100
_DIGITS = re.compile(r"[0-9]+")


class Bounds(msgspec.Struct, frozen=True):
    """What the log and the settings allow."""

    partitions: int
    page_rows_max: int


class Rule(msgspec.Struct, frozen=True):
    """How a text is read that is not of a type that JSON knows.

    `read` raises a ValueError that names the problem. It takes everything that fits the schema, and
    may take more.
    """

    read: Callable[[str, Bounds], Any]
    schema: Callable[[Bounds], Schema]
    default: Callable[[Bounds], Any] | None = None


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a request: none, unless a subclass has fields."""


P = TypeVar("P", bound=Parameters)


class Parameter(msgspec.Struct, frozen=True):
    """One parameter, as it is described."""

    name: str
    location: Literal["query", "header", "path"]
    description: str
    schema: Schema
    default: Any = None
    example: Any = None


class _Field(msgspec.Struct, frozen=True):
    """A field of the Struct, and how its text is read."""

    field: str
    about: Parameter
    read: Callable[[str], Any]


class Reader(Generic[P]):
    """Reads the parameters of one kind of request."""

    def __init__(self, kind: type[P], bounds: Bounds, *, strict: bool = True) -> None:
        """Unknown parameters are refused if it is `strict`."""
        self._kind = kind
        self._strict = strict
        self._fields = [_field(one, bounds) for one in _declared(kind)]
        names = [one.about.name for one in self._fields if one.about.location == "query"]
        self._known = names

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters, for the description."""
        return [one.about for one in self._fields]

    def read(self, query: MultiMapping[str], headers: Mapping[str, str]) -> P:
        """Read a request's; a problem names each that is wrong or unknown."""
        errors: list[ParameterError] = []
        values: dict[str, Any] = {}
        for one in self._fields:
            name = one.about.name
            try:
                values[one.field] = _read(one, query, headers)
            except ValueError as error:
                errors.append(ParameterError(name, str(error)))
        if self._strict and not query.keys() <= set(self._known):
            errors += self._unknown(query)
        if errors:
            raise bad_parameters(errors)
        return self._kind(**values)

    def _unknown(self, query: MultiMapping[str]) -> Iterator[ParameterError]:
        listed = ", ".join(self._known) or "none"
        for name in dict.fromkeys(query):
            if name not in self._known:
                plain = name.isidentifier() and len(name) <= _NAME_CHARACTERS_MAX
                shown = name if plain else "a parameter"
                yield ParameterError(shown, f"unknown; known here: {listed}")


def _read(one: _Field, query: MultiMapping[str], headers: Mapping[str, str]) -> Any:  # noqa: ANN401 - as typed in the Struct
    name = one.about.name
    if one.about.location == "header":
        given = [headers[name]] if name in headers else []
    else:
        given = query.getall(name, [])
    if not given:
        return one.about.default
    if len(given) > 1:
        raise ValueError("given more than once")
    return one.read(given[0])


@functools.cache
def _declared(kind: type[Parameters]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a Struct, whose annotations are read once."""
    return msgspec.structs.fields(kind)


def _field(field: msgspec.structs.FieldInfo, bounds: Bounds) -> _Field:
    kind, *notes = get_args(field.type)
    (meta,) = [note for note in notes if isinstance(note, Meta)]
    rules = [note for note in notes if isinstance(note, Rule)]
    rule = rules[0] if rules else _rule_of(kind, meta)
    extra = meta.extra or {}
    about = Parameter(
        name=field.encode_name,
        location=extra.get("location", "query"),
        description=meta.description or "",
        schema=rule.schema(bounds),
        default=rule.default(bounds) if rule.default else field.default,
        example=meta.examples[0] if meta.examples else None,
    )
    return _Field(field.name, about, lambda text: rule.read(text, bounds))


def _rule_of(kind: Any, meta: Meta) -> Rule:  # noqa: ANN401 - a type
    """Make the rule of a type that JSON knows."""
    if isinstance(meta.ge, int) and isinstance(meta.le, int):
        return number(meta.ge, meta.le)
    found = inspect.type_info(kind)
    if isinstance(found, inspect.UnionType):
        (found,) = [one for one in found.types if not isinstance(one, inspect.NoneType)]
    match found:
        case inspect.LiteralType():
            return _choice([str(word) for word in get_args(_without_none(kind))])
        case inspect.StrType(max_length=int(most)):
            return _text(most)
        case _:
            raise TypeError(f"a parameter can't be {kind}")


def _without_none(kind: Any) -> Any:  # noqa: ANN401 - likewise
    parts = get_args(kind)
    (first, *_) = [one for one in parts if one is not type(None)]
    return first if type(None) in parts else kind


def number(least: int, most: int) -> Rule:
    """Make the rule of whole numbers."""

    def read(text: str, _: Bounds) -> int:
        if not (_DIGITS.fullmatch(text) and len(text) <= len(str(most))):
            raise ValueError(f"not a whole number from {least} to {most}")
        if not least <= int(text) <= most:
            raise ValueError(f"not from {least} to {most}")
        return int(text)

    return Rule(read, lambda _: {"type": "integer", "minimum": least, "maximum": most})


def _choice(words: list[str]) -> Rule:
    def read(text: str, _: Bounds) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return Rule(read, lambda _: {"type": "string", "enum": words})


def _text(most: int) -> Rule:
    def read(text: str, _: Bounds) -> str:
        if not text.strip() or len(text) > most:
            raise ValueError(f"not a text of 1 to {most} characters")
        return text

    return Rule(read, lambda _: {"type": "string", "pattern": r"\S", "maxLength": most})


def _position(text: str, bounds: Bounds) -> Position:
    found = Position.parse(text)
    if found.partition >= bounds.partitions:
        raise ValueError(f"this log has {bounds.partitions} partitions, the first is 0")
    return found


def _place(text: str, bounds: Bounds) -> Place:
    found = Place.parse(text)
    _position(str(found.position), bounds)
    return found


def _place_schema(bounds: Bounds) -> Schema:
    pattern: str = _position_schema(bounds)["pattern"]
    return {"type": "string", "pattern": f"{pattern.removesuffix('$')}(-[0-9a-f]{{8}})?$"}


def _position_schema(bounds: Bounds) -> Schema:
    count = bounds.partitions
    first = "0" if count == 1 else f"({'|'.join(map(str, range(count)))})"
    return {"type": "string", "pattern": f"^{first}:(0|[1-9][0-9]{{0,17}})$"}


_TIME = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "integer", "minimum": 0, "maximum": 253_402_300_799_999},
    ]
}
TIME = Rule(lambda text, _: parse_time(text), lambda _: _TIME)
DAY = Rule(lambda text, _: parse_day(text), lambda _: {"type": "string", "format": "date"})
POSITION = Rule(_position, _position_schema)
PLACE = Rule(_place, _place_schema)
PARTITION = Rule(
    lambda text, bounds: number(0, bounds.partitions - 1).read(text, bounds),
    lambda bounds: number(0, bounds.partitions - 1).schema(bounds),
)
_PAGE_SIZE = Rule(
    lambda text, bounds: number(1, bounds.page_rows_max).read(text, bounds),
    lambda bounds: number(1, bounds.page_rows_max).schema(bounds),
    lambda bounds: min(_ROWS, bounds.page_rows_max),
)

Limit: TypeAlias = Annotated[int, _PAGE_SIZE, Meta(description="how many on a page at most")]
Text: TypeAlias = Annotated[str, Meta(max_length=500)]
ValidAt: TypeAlias = Annotated[
    datetime | None,
    TIME,
    Meta(
        description="only what had happened by then, inclusive",
        examples=["2023-06-13T09:48:47.621Z"],
    ),
]
KnownAt: TypeAlias = Annotated[
    datetime | None,
    TIME,
    Meta(
        description="only what had been recorded by then, inclusive; together with `valid_at`: both"
    ),
]
MinPosition: TypeAlias = Annotated[
    Position | None,
    POSITION,
    Meta(
        description="wait until the read model has reached this position: read your own writes",
        examples=["0:1"],
    ),
]

# The parameters in paths.
IDS = {
    "application_id": Parameter(
        "application_id",
        "path",
        "the sales channel",
        {"type": "string", "minLength": 1},
        example="000000000000000000000001",
    ),
    "user_id": Parameter(
        "user_id",
        "path",
        "the user's id in that sales channel",
        {"type": "string", "minLength": 1},
        example="6487fc9f66a6031a8b68f523",
    ),
}
