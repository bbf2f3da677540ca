"""How values are written in answers, and how the interface's description has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from eventstore.events import Kind

# As `rfc3339` writes it.
Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
PositionText: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9]{1,4}:[0-9]{1,18}$", examples=["0:42"])
]
PlaceText: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9]{1,4}:[0-9]{1,18}(-[0-9a-f]{8})?$", examples=["0:42-9f86d081"])
]
EventType: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [k.label for k in Kind]})]
# An object that is encoded already.
JsonObject: TypeAlias = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


def rfc3339(time: datetime) -> str:
    """Write a time in UTC as answers show it: to the millisecond, with Z."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
