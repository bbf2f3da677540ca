"""The description of the HTTP interface, OpenAPI 3.1, made from the route table.

Schemas are those that msgspec makes of the answers' types. Nothing is described here twice.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from api.web import params, problems
from api.web.params import Reader
from api.web.problems import ProblemDocument
from api.web.route import JSON, Delivery, Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from api.web.params import Bounds, Parameter, Parameters

    Schema = dict[str, Any]

_PATH = "/openapi.json"
_ABOUT = """\
Who the users of Fynd sales channels are, what happened to each of them, and what was true, or
known, at any moment.

Times are RFC 3339 in UTC with `Z`; as parameters they may carry any offset, or be epoch
milliseconds. Positions are opaque. Everything but success is a problem document (RFC 9457), also
404 for any other path and 405, with `Allow`, for any other method. Every GET takes HEAD too.
"""
_SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "Made by `userlog token create`; its scope stands at each request.",
    },
}
_HEADERS = {
    "X-Request-Id": {
        "description": "names the request in the log; send your own to choose it",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
    },
    "Retry-After": {
        "description": "seconds after which it is worth asking again",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}},
}
_PROBLEM_HEADERS = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}


def described(table: Sequence[Route[Any]], bounds: Bounds) -> Sequence[Route[Any]]:
    """Add the route that answers with the description of the whole table."""

    async def openapi(_request: web.Request, _given: Parameters) -> web.Response:
        """Answer with this description."""
        return web.Response(body=body(), content_type=JSON)

    @cache
    def body() -> bytes:
        return msgspec.json.encode(document(whole, bounds))

    whole = (*table, Route("GET", _PATH, openapi, dict[str, Any], None, problems=(503,)))
    return whole


def document(table: Sequence[Route[Any]], bounds: Bounds) -> Schema:
    """Describe a route table."""
    types = {one: None for route in table for one in (route.answer, ProblemDocument)}
    template = "#/components/schemas/{name}"
    schemas, components = msgspec.json.schema_components(types, ref_template=template)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, Schema] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, bounds, schema_of
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "userlog",
            "version": version("userlog"),
            "description": _ABOUT,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: _plain(schema) for name, schema in components.items()},
            "responses": {
                str(one): _problem(one, schema_of[ProblemDocument]) for one in problems.MEANINGS
            },
            "headers": _HEADERS,
            "securitySchemes": _security_schemes(table),
        },
    }


def _operation(route: Route[Any], bounds: Bounds, schema_of: dict[type, Schema]) -> Schema:
    summary, _, rest = (inspect.getdoc(route.call) or "").partition("\n\n")
    known = Reader(route.parameters, bounds).parameters
    in_path = _ids(route.path)
    found: Schema = {
        "operationId": route.call.__name__,
        "summary": summary,
        "parameters": [_parameter(one) for one in (*in_path, *([] if route.posted else known))],
        "responses": {
            "200": _answer(route, schema_of[route.answer]),
            **{str(one): _ref("responses", str(one)) for one in _problems(route)},
        },
        "security": _security(route),
    }
    if rest:
        found["description"] = rest
    if route.delivery:
        found["requestBody"] = _delivery(route.delivery)
    if route.posted:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _members(known)}}}
    return found


def _ids(path: str) -> list[Parameter]:
    return [params.IDS[name] for name in re.findall(r"\{(\w+)\}", path)]


def _parameter(parameter: Parameter) -> Schema:
    schema = dict(parameter.schema)
    if isinstance(parameter.default, str | int):
        schema["default"] = parameter.default
    found: Schema = {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.location == "path",
        "description": parameter.description,
        "schema": schema,
    }
    if parameter.example is not None:
        found["example"] = parameter.example
    return found


def _members(known: list[Parameter]) -> Schema:
    members = {one.name: {**one.schema, "description": one.description} for one in known}
    return {"type": "object", "properties": members, "additionalProperties": False}


def _answer(route: Route[Any], schema: Schema) -> Schema:
    types = {media: {"schema": {"type": "string"}} for media in route.media}
    if route.answer is not str:
        types = {JSON: {"schema": schema}, **types}
    return {"description": HTTPStatus.OK.phrase, "headers": _headers(), "content": types}


def _problems(route: Route[Any]) -> list[int]:
    """Return the statuses of what can go wrong."""
    found = {*route.problems}
    if route.scope is not None:
        found |= {400, 401, 403, 503}
    if "{" in route.path:
        found.add(404)
    return sorted(found)


def _problem(status: int, schema: Schema) -> Schema:
    return {
        "description": problems.MEANINGS[status],
        "headers": _headers(*_PROBLEM_HEADERS.get(status, ())),
        "content": {problems.CONTENT_TYPE: {"schema": schema}},
    }


def _headers(*more: str) -> Schema:
    return {name: _ref("headers", name) for name in ("X-Request-Id", *more)}


def _ref(what: str, name: str) -> Schema:
    return {"$ref": f"#/components/{what}/{name}"}


def _security(route: Route[Any]) -> list[Schema]:
    if route.delivery:
        return [{"signature": []}]
    return [{"token": [str(route.scope)]}] if route.scope else []


def _delivery(delivery: Delivery) -> Schema:
    examples = {name: {"value": value} for name, value in delivery.examples.items()}
    content = {JSON: {"schema": {}, "examples": examples}}
    return {"description": delivery.description, "content": content}


def _security_schemes(table: Iterable[Route[Any]]) -> Schema:
    """Return the schemes: bearer tokens, and the signature of deliveries."""
    schemes = dict(_SECURITY)
    for route in table:
        if route.delivery:
            schemes["signature"] = {
                "type": "apiKey",
                "in": "header",
                "name": route.delivery.signature_header,
                "description": "Lower-case hex HMAC-SHA256 of the raw body under a webhook secret.",
            }
    return schemes


def _plain(schema: Schema) -> Schema:
    """Take the indentation of docstrings out of descriptions."""
    if "description" in schema:
        return schema | {"description": inspect.cleandoc(schema["description"])}
    return schema
