"""The description of the HTTP interface, and the service held against it by schemathesis."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.deliveries import SAMPLE_USER, SAMPLES, delivery
from tests.support.serving import SECRET, TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.serving import Service

CONFIG = Path(__file__).parents[1] / "openapi" / "schemathesis.toml"
CONTACTS: dict[str, Any] = {
    "emails": [{"email": "jo@example.com"}],
    "phone_numbers": [{"phone": "5550001"}],
}
USERS = ("jo", "a/b", "é", "spare-jo", "spare-a/b", "spare-é", f"spare-{SAMPLE_USER}")
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service with some users in its log."""
    async with serving(database_url) as running:
        for body in (*SAMPLES, *(delivery(user_id, "create", **CONTACTS) for user_id in USERS)):
            await running.runtime.ingest.deliver(body)
        await running.catch_up()
        yield running


async def test_valid(service: Service) -> None:
    """The description is OpenAPI 3.1, to be had without a token, and names every request."""
    # Half of the time that it takes to import all tests would be this one's, in each process.
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415

    found = (await service.call("GET", "/openapi.json")).body
    OpenAPIV31SpecValidator(found).validate()
    assert len(found["paths"]) == 13
    for path in found["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert all(one["description"] for one in operation["parameters"])


async def test_answers_are_as_described(service: Service, tmp_path: Path) -> None:
    """Whatever is asked, well or badly, the answer is one that the description has.

    Some 400 requests, always the same; `make property-test` tries 3,000, and others each time.
    """
    effort = (
        ["-n", "400", "--generation-database", "none"]
        if THOROUGH
        else ["-n", "2", "--generation-deterministic"]
    )
    command = ("st", "--config-file", str(CONFIG), "run", "--checks", "all", *effort)
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
        "API_TOKEN": TOKEN,
        "WEBHOOK_SECRET": SECRET,
        "SCHEMATHESIS_HOOKS": str(CONFIG.with_name("hooks.py")),
    }
    schemathesis = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name(command[0]),
        *command[1:],
        *("--no-color", "--request-timeout", "30"),
        f"{service.base}/openapi.json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
        cwd=tmp_path,
    )
    out, _ = await schemathesis.communicate()
    print(out.decode())
    assert schemathesis.returncode == 0
