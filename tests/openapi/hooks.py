"""Who asks, when schemathesis does: someone with a token, and the platform with its signature."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import requests
import schemathesis
from aiohttp import hdrs

from api.routes import WEBHOOK_PATH
from api.webhook.verify import HEADER, sign

if TYPE_CHECKING:
    from schemathesis import AuthContext, Case, HookContext


@schemathesis.auth(refresh_interval=None).skip_for(path=WEBHOOK_PATH)
class Token:
    """Shows a token that opens everything."""

    def get(self, _case: Case[Any], _context: AuthContext) -> str:
        """Return it."""
        return os.environ["API_TOKEN"]

    def set(self, case: Case[Any], token: str, _context: AuthContext) -> None:
        """Send it."""
        case.headers["Authorization"] = f"Bearer {token}"


@schemathesis.auth(refresh_interval=None).apply_to(path=WEBHOOK_PATH)
class Signature:
    """Signs a delivery as the platform does, over the bytes that are sent."""

    def get(self, _case: Case[Any], _context: AuthContext) -> str:
        """Return the secret."""
        return os.environ["WEBHOOK_SECRET"]

    def set(self, case: Case[Any], secret: str, _context: AuthContext) -> None:
        """Sign what will be sent."""
        given = case.as_transport_kwargs(base_url="http://nowhere")
        body = requests.Request(**given).prepare().body or b""
        case.headers[HEADER] = sign(body.encode() if isinstance(body, str) else body, secret)


@schemathesis.hook
def filter_case(_context: HookContext, case: Case[Any]) -> bool:
    """Leave out what schemathesis calls good although it made a part of it bad.

    4.32 does so with an optional header when it tries combinations of query parameters; the same
    bad header is tried where it is called bad.
    """
    if case.meta is None or case.meta.generation.mode.is_negative:
        return True
    return not any(part.mode.is_negative for part in case.meta.components.values())


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Erase others than those who are asked for, so that they stay to be asked for."""
    user_id = case.path_parameters.get("user_id")
    if case.method == hdrs.METH_DELETE and not str(user_id).startswith("spare-"):
        case.path_parameters["user_id"] = f"spare-{user_id}"
