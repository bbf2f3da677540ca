"""A service in the tests' own process, on a free port, stopped as the product stops it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from api.app import App
from api.config.secret_files import Secrets
from api.runtime import Runtime, opened
from api.server import process
from api.server.sockets import listening
from projections.prove.scrubber import Scrubber
from tests.conftest import MASTER_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.config.settings import Settings
    from api.server.connections import Runner

SECRETS = Secrets(["secret"], MASTER_KEY, None, "token", [])
AUTH = {"Authorization": "Bearer token"}


class Served(NamedTuple):
    """What serves, and where."""

    runtime: Runtime
    runner: Runner
    scrubber: Scrubber
    port: int

    @property
    def base(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def served(settings: Settings, secrets: Secrets = SECRETS) -> AsyncGenerator[Served]:
    """Serve without a projector for as long as the block lasts."""
    async with opened(settings, secrets) as runtime:
        scrubber = Scrubber(runtime.log, interval_s=0)
        app = App(runtime, secrets, scrubber)
        with listening("127.0.0.1", 0) as (sockets,):
            port: int = sockets[0].getsockname()[1]
            async with process.serving(app, runtime.settings, sockets) as runner:
                yield Served(runtime, runner, scrubber, port)
