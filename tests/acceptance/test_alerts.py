"""Alerts that only a whole process can cause, and Prometheus itself scraping one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from tests.support.monitoring import RULES, assert_fires, page, run, scrape_of, tool
from tests.support.processes import TOKEN
from tests.support.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.processes import Home, Service

_ON_A_SMALL_DISK = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=320m none "$USERLOG_DATA_DIR" && exec "$@"',
    "sh",
)
_FILL = """
left=$(df --output=avail --block-size=1 "$1" | tail -1)
head --bytes=$((left - 320 * 1024 * 1024 * 6 / 100)) /dev/zero > "$1"/ballast
"""


@asynccontextmanager
async def prometheus(folder: Path, service: Service, token: Path) -> AsyncGenerator[Prometheus]:
    """Run Prometheus, scraping a service once a second, with the rules but not their patience."""
    program = tool("prometheus")
    rules = re.sub(r"^ +for: .*\n", "", RULES.read_text(), flags=re.MULTILINE)
    (folder / "alerts.yml").write_text(rules)
    job = {
        "job_name": "userlog",
        "authorization": {"credentials_file": str(token)},
        "static_configs": [{"targets": [service.base.removeprefix("http://")]}],
    }
    about = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(json.dumps(about))
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    try:
        async with ClientSession(await _address(process.stderr)) as session:
            reading = asyncio.create_task(process.stderr.read())
            yield Prometheus(session)
    finally:
        process.terminate()
        await process.wait()
    await reading


async def _address(stderr: asyncio.StreamReader) -> str:
    said = ""
    async with asyncio.timeout(PATIENCE_S):
        async for line in stderr:
            said += line.decode()
            if found := re.search(r'msg="Listening on" address=(\S+)', said):
                return f"http://{found[1]}"
    pytest.fail(f"Prometheus did not start: {said}")


class Prometheus:
    """A running Prometheus, asked through its API."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def until(self, query: str) -> list[dict[str, str]]:
        """Ask until there is an answer; return its labels."""
        return await until(lambda: self._ask(query))

    async def _ask(self, query: str) -> list[dict[str, str]]:
        async with self._session.get("/api/v1/query", params={"query": query}) as response:
            if response.status != 200:  # it has just begun
                return []
            found: dict[str, Any] = await response.json()
        return [one["metric"] for one in found["data"]["result"]]


async def test_a_service_that_is_gone(home: Home, tmp_path: Path) -> None:
    """Prometheus reads all that a service shows, and knows when it is gone."""
    async with home.serving() as service:
        token = tmp_path / "token"
        token.write_text(home.token)
        async with prometheus(tmp_path, service, token) as watching:
            await home.send(service)
            await watching.until('up{job="userlog"} == 1')
            await watching.until("userlog_deliveries_total == 3")
            (build,) = await watching.until("userlog_build_info")
            assert {"version", "python", "schema", "fold"} <= build.keys()
            await service.stop(signal.SIGKILL)
            fire = 'ALERTS{alertstate="firing", alertname="UserlogDown"}'
            (fired,) = await watching.until(fire)
            assert fired["severity"] == "critical"


async def test_a_disk_that_fills_up(tmp_path: Path, own_home: Home) -> None:
    """The embedded database's disk, here one of memory, has little room left."""
    tool("promtool")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    home = own_home.by(*_ON_A_SMALL_DISK, *own_home.program)
    home = home.where(USERLOG_API_TOKEN=TOKEN)  # the disk that is mounted hides the file
    home.folder.mkdir()
    async with home.serving() as service:
        before = scrape_of(await page(service.base, TOKEN))
        inside = ("nsenter", f"--target={service.process.pid}", "--mount")
        await run(*inside, "sh", "-ec", _FILL, "sh", str(home.folder))
        during = scrape_of(await page(service.base, TOKEN))
    await assert_fires(tmp_path, before, during, {"UserlogDiskNearlyFull"})
