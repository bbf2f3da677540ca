"""Parameters that are members of a JSON body, so that they stand in no server's access log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from multidict import MultiDict

from api.web.problems import ParameterError, Problem, bad_parameters, too_large

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web
    from multidict import MultiMapping

    from api.web.params import Parameter, Schema

_BYTES_MAX = 1 << 14
_LIMIT = f"at most {_BYTES_MAX} bytes here"


async def posted(request: web.Request, known: Sequence[Parameter]) -> MultiMapping[str]:
    """Read the members as the texts that a query would have.

    Problem (400, 413) if the body is no object, a member is not of its type, or there is too much.
    """
    if (request.content_length or 0) > _BYTES_MAX:
        raise too_large(_LIMIT)
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > _BYTES_MAX:
            raise too_large(_LIMIT)
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        detail = "the body must be a JSON object, its members named as the parameters"
        raise Problem(400, "Body not readable", detail) from None
    given = {name: _whole(value) for name, value in given.items()}
    types = {one.name: _types(one.schema) for one in known}
    wrong = [
        ParameterError(name, f"not {' or '.join(types[name])}")
        for name, value in given.items()
        if name in types and _type(value) not in types[name]
    ]
    if wrong:
        raise bad_parameters(wrong)
    return MultiDict((name, str(value)) for name, value in given.items())


def _whole(value: object) -> object:
    """Return 75 for 75.0: to JSON Schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _types(schema: Schema) -> list[str]:
    return [one["type"] for one in schema.get("anyOf", [schema])]


def _type(value: object) -> str:
    if isinstance(value, str):
        return "string"
    return "integer" if isinstance(value, int) and not isinstance(value, bool) else "another"
