"""Sign deliveries and post them, to try an endpoint out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from api.webhook import samples
from api.webhook.verify import HEADER, sign

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LINES = (".jsonl", ".ndjson")
_TIMEOUT_S = 30
_LOGIN = re.compile("//[^/]*@")


class Sent(msgspec.Struct, frozen=True):
    """A delivery that was posted; without a status there was no answer.

    `answer` is the document that came back, or one with a `title` that gives the reason.
    """

    name: str
    status: int | None
    answer: dict[str, Any]


def deliveries(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield deliveries with a name each: a file is one, or one a line if it ends in `.jsonl`.

    Without files, the three samples of the platform's documentation.
    """
    if not files:
        for name, body in samples.load().items():
            yield f"{name}.json", body
    for path in files:
        if path.suffix not in _LINES:
            yield str(path), path.read_bytes()
            continue
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip(b"\r\n")


async def send(url: str, secret: str, files: Sequence[Path]) -> list[Sent]:
    """Post deliveries one after the other; stop at the first without an answer."""
    sent: list[Sent] = []
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for name, body in deliveries(files):
            headers = {HEADER: sign(body, secret), "content-type": "application/json"}
            try:
                async with session.post(url, data=body, headers=headers) as response:
                    sent.append(Sent(name, response.status, _document(await response.read())))
            except (aiohttp.ClientError, TimeoutError) as error:
                title = f"no answer from {_LOGIN.sub('//', url)} ({type(error).__name__})"
                sent.append(Sent(name, None, {"title": title}))
                break
    return sent


def _document(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"title": "the answer is not JSON; is this a userlog?"}
