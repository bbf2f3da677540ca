"""How often the code goes from one file to another while the service handles one request.

What is followed: every function of `api`, `projections` and `eventstore` that begins or goes on
(`sys.setprofile`, event "call", so a coroutine counts again each time it is resumed), in the order
in which that happens and whichever task it is in: the batch that appends a delivery is part of
handling it. Each time the file is another one than just before, that is a move. From the moment
at which the sender makes the request until they have read the answer.

A delivery's sender signs with the function that the service verifies with, in this process: the
webhook's first move leads away from there, and one without that is one less.

Beside the moves: `calls` are those that are written down as such, from a function in one file to
one in another, with nothing of a library in between; there a coroutine counts once. A
comprehension or lambda is a function of its own (comprehensions no longer are in Python 3.12).

Nothing else goes on: one connection, no projector, no scrubber. The user's key is cached, and the
statements are prepared, as requests of the same kind went before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import uvloop
from common import MASTER_KEY, server
from data import APPLICATION, START_MS, STEP_MS, delivery, user_id
from load import SECRET, posts
from services import TOKEN

import api
from api.app import App
from api.config.secret_files import Secrets
from api.config.settings import Settings
from api.observe import logs
from api.routes import WEBHOOK_PATH
from api.runtime import install, opened
from api.server import process
from api.server.sockets import listening
from projections.project.projector import catch_up

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from types import FrameType

    from api.runtime import Runtime

    Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PACKAGES = ("api", "projections", "eventstore")
USER = 1
WARM_UP = 2
ROUNDS = 3
# Longer than anything that an answered request leaves behind for later.
_QUIET_S = 0.3
_ROOT = Path(api.__file__).parents[1]
_FOLDERS = tuple(f"{_ROOT / name}/" for name in PACKAGES)


class Step(NamedTuple):
    """A function that begins or goes on; `caller` is the file that it was called from, if ours."""

    file: str
    function: str
    begins: bool
    caller: str | None

    def __str__(self) -> str:
        """Name it."""
        return f"{self.file}:{self.function}"


class Recording:
    """What `sys.setprofile` is given: notes each step in our files."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        # Kept, so that one that is there already is one that goes on.
        self._frames: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note a step."""
        file = _ours(frame.f_code.co_filename)
        if event != "call" or file is None:
            return
        above = frame.f_back
        caller = _ours(above.f_code.co_filename) if above else None
        begins = frame not in self._frames
        self._frames.add(frame)
        self.steps.append(Step(file, frame.f_code.co_qualname, begins, caller))


@cache
def _ours(path: str) -> str | None:
    return str(Path(path).relative_to(_ROOT)) if path.startswith(_FOLDERS) else None


class Found(NamedTuple):
    """The steps of one request."""

    steps: list[Step]

    def moves(self) -> list[tuple[Step, Step]]:
        """Return where one step is in another file than the one before."""
        return [(one, other) for one, other in pairwise(self.steps) if one.file != other.file]

    def counts(self) -> dict[str, int]:
        """Count what there is to count."""
        across = [one for one in self.steps if one.begins and one.caller not in {None, one.file}]
        return {
            "moves": len(self.moves()),
            "files": len({one.file for one in self.steps}),
            "functions": len({(one.file, one.function) for one in self.steps}),
            "calls": len(across),
        }


@contextlib.asynccontextmanager
async def service() -> AsyncGenerator[tuple[Runtime, Streams]]:
    """Serve in this process, without a projector; yield one connection there."""
    secrets = Secrets([SECRET], MASTER_KEY, None, TOKEN, [])
    async with server() as running:
        settings = Settings(database_url=running.url)
        await install(running.url, settings, secrets)
        async with opened(settings, secrets) as runtime, answering(runtime, secrets) as streams:
            yield runtime, streams


@contextlib.asynccontextmanager
async def answering(runtime: Runtime, secrets: Secrets) -> AsyncGenerator[Streams]:
    """Answer in this process; yield one connection there."""
    with listening("127.0.0.1", 0) as (sockets,):
        port: int = sockets[0].getsockname()[1]
        async with process.serving(App(runtime, secrets), runtime.settings, sockets):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            yield reader, writer
            writer.close()


async def ask(streams: Streams, requests: Iterator[bytes]) -> None:
    """Make and send the next request, and read its answer, which must be a success."""
    reader, writer = streams
    writer.write(next(requests))
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    assert head.startswith(b"http/1.1 200 "), head


async def record(call: Callable[[], Awaitable[None]]) -> Found:
    """Follow a call that others like it went before; what disturbs one can only add to it."""
    for _ in range(WARM_UP):
        await call()
    found: list[Found] = []
    for _ in range(ROUNDS):
        await asyncio.sleep(_QUIET_S)
        recording = Recording()
        sys.setprofile(recording)
        try:
            await call()
        finally:
            sys.setprofile(None)
        found.append(Found(recording.steps))
    return min(found, key=lambda one: len(one.steps))


def gets() -> Iterator[bytes]:
    """Make requests for the user."""
    path = f"/v1/applications/{APPLICATION}/users/{user_id(USER)}"
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    return itertools.repeat(request.encode())


async def measure() -> dict[str, Found]:
    """Follow a delivery, an update of a user who is known, and a question for that user."""
    bodies = (delivery(USER, n, START_MS + n * STEP_MS, luck=0.5) for n in itertools.count())
    async with service() as (runtime, streams):
        webhook = await record(partial(ask, streams, posts(bodies, WEBHOOK_PATH)))
        await catch_up(runtime.log, 100)
        user = await record(partial(ask, streams, gets()))
    return {f"POST {WEBHOOK_PATH}": webhook, "GET /v1/applications/{}/users/{}": user}


def show(found: dict[str, Found], *, moves: bool) -> None:
    """Print the counts of each request, and its moves if they are wanted."""
    for request, one in found.items():
        print(request, *(f"{count} {name}" for name, count in one.counts().items()), sep="  ")
        for before, after in one.moves() if moves else ():
            print(f"  {before} -> {after}{'' if after.begins else ' (goes on)'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="every move, in order")
    given = parser.parse_args()
    logs.configure("warning", "text")
    show(uvloop.run(measure()), moves=given.list)


if __name__ == "__main__":
    main()
