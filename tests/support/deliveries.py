"""Deliveries as the platform sends them: every test builds its own with these functions.

It knows nothing of userlog, so that an oracle may use it too.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
CREATE, UPDATE, DELETE = SAMPLES = [
    (_ROOT / "api/webhook/samples" / name).read_bytes()
    for name in ("1-create.json", "2-update.json", "3-delete.json")
]
DELETE_VERBATIM = (_ROOT / "tests/samples/delete-verbatim.json").read_bytes()
# Whom the samples are about, and when they happened; the deliveries below have the same.
APP, SAMPLE_USER = "000000000000000000000001", "6487fc9f66a6031a8b68f523"
T0 = datetime(2023, 6, 13, 9, 48, 47, 621_000, tzinfo=UTC)
T0_MS = 1_686_649_727_621


def entry(user_id: Any = "u", **fields: Any) -> dict[str, Any]:
    """An entry of a payload: a user with these fields."""
    return {"user": {"user_id": user_id, **fields}}


def envelope(
    payload: Any, kind: Any = "update", at_ms: Any = 0, application: str = APP, **event: Any
) -> dict[str, Any]:
    """A payload in the delivered envelope, which happened some milliseconds after T0.

    What is given of the `event` overrules the rest; a `None` is left out.
    """
    about = {"name": "user", "type": kind, "created_timestamp": T0_MS + at_ms, **event}
    about = {name: value for name, value in about.items() if value is not None}
    return {"event": about, "company_id": 1, "application_id": [application], "payload": payload}


def documented(
    payload: Any, kind: Any = "update", at_ms: Any = 0, application: str = APP, **event: Any
) -> dict[str, Any]:
    """The same in the envelope of the platform's webhook page."""
    meta = envelope(None, kind, at_ms, application, **event)
    del meta["payload"]
    if "created_timestamp" in meta["event"]:
        meta["created_timestamp"] = meta["event"].pop("created_timestamp")
    return {"meta": meta, "payload": payload}


def delivery(
    user_id: Any = "u",
    kind: Any = "update",
    at_ms: Any = 0,
    *,
    event_id: Any = None,
    **fields: Any,
) -> bytes:
    """A delivery about one user, which happened some milliseconds after T0."""
    return encoded(envelope([entry(user_id, **fields)], kind, at_ms, id=event_id))


def encoded(value: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def spliced(value: Any, raw: bytes) -> bytes:
    """JSON in bytes, with these in the place of each text `@`."""
    return encoded(value).replace(b'"@"', raw)
