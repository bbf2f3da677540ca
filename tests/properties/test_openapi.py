"""The description of the HTTP interface, and the service held against it by schemathesis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import ClientSession
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.config.secret_files import Secrets
from api.config.settings import Settings
from projections.project.projector import catch_up
from tests.conftest import MASTER_KEY
from tests.support.database import SAMPLE_USER, SAMPLES, delivery
from tests.support.serving import served

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SECRETS = Secrets(["secret"], MASTER_KEY, None, "token", [])
CONFIG = Path(__file__).parents[1] / "openapi" / "schemathesis.toml"
CONTACTS: dict[str, Any] = {
    "emails": [{"email": "jo@example.com"}],
    "phone_numbers": [{"phone": "5550001"}],
}
USERS = ("jo", "a/b", "é", "spare-jo", "spare-a/b", "spare-é", f"spare-{SAMPLE_USER}")
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


@contextlib.asynccontextmanager
async def serving(url: str) -> AsyncGenerator[str]:
    """Serve a log with some users in it."""
    settings = Settings(database_url=url, wait_timeout_s=0.05)
    async with served(settings, SECRETS) as running:
        for body in (*SAMPLES, *(delivery(user_id, "create", **CONTACTS) for user_id in USERS)):
            await running.runtime.ingest.deliver(body)
        await catch_up(running.runtime.log, 100)
        yield running.base


async def description(base: str) -> dict[str, Any]:
    async with ClientSession() as session, session.get(f"{base}/openapi.json") as response:
        assert response.status == 200
        return msgspec.json.decode(await response.read(), type=dict[str, Any])


async def test_valid(database_url: str) -> None:
    """The description is OpenAPI 3.1, to be had without a token, and names every request."""
    async with serving(database_url) as base:
        found = await description(base)
    OpenAPIV31SpecValidator(found).validate()
    assert len(found["paths"]) == 12
    for path in found["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert all(one["description"] for one in operation["parameters"])


async def test_answers_are_as_described(database_url: str, tmp_path: Path) -> None:
    """Whatever is asked, well or badly, the answer is one that the description has.

    Some 500 requests, always the same; HYPOTHESIS_PROFILE=thorough tries 3,000, and others each
    time.
    """
    effort = (
        ["-n", "400", "--generation-database", "none"]
        if THOROUGH
        else ["-n", "5", "--generation-deterministic"]
    )
    command = ("st", "--config-file", str(CONFIG), "run", "--checks", "all", *effort)
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
        "API_TOKEN": "token",
        "WEBHOOK_SECRET": "secret",
        "SCHEMATHESIS_HOOKS": str(CONFIG.with_name("hooks.py")),
    }
    async with serving(database_url) as base:
        schemathesis = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name(command[0]),
            *command[1:],
            *("--no-color", "--request-timeout", "30"),
            f"{base}/openapi.json",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            cwd=tmp_path,
        )
        out, _ = await schemathesis.communicate()
    print(out.decode())
    assert schemathesis.returncode == 0
