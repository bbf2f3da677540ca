"""What a service shows that is watched, and Prometheus's own tools to judge what it shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.serving import Service

Values: TypeAlias = dict[tuple[str, ...], float]
DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "alerts.yml"
DASHBOARD = DOCS / "dashboard.json"
_FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'
_LABELS = 'job="userlog",instance="watched"'


async def metrics(service: Service) -> Values:
    """Return each sample by its name and the values of its labels, sorted by their names."""
    return _values(await service.text("/metrics"))


async def scrape(service: Service) -> Scrape:
    """Return what a service shows now, as Prometheus would."""
    return scrape_of(await service.text("/metrics"))


async def scraped(base: str, token: str) -> Values:
    """Return what a service elsewhere shows, as `metrics` does."""
    return _values(await page(base, token))


async def page(base: str, token: str) -> str:
    """Return what a service elsewhere shows, as text."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        ClientSession(base, headers=headers) as session,
        session.get("/metrics") as response,
    ):
        assert response.status == 200
        return await response.text()


def _values(text: str) -> Values:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def tool(name: str) -> str:
    """Find a program of Prometheus; without it the test is skipped, unless it was promised."""
    folder = os.environ.get("USERLOG_TEST_PROMETHEUS")
    found = shutil.which(name, path=folder)
    if found is None:
        assert folder is None, f"{name} is not in {folder}"
        pytest.skip(f"{name} is not installed; .ci/with-prometheus brings it")
    return found


async def run(*command: str, stdin: str | None = None) -> str:
    """Run a program that must succeed; return what it prints."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate(stdin.encode() if stdin else None)
    assert process.returncode == 0, out.decode()
    return out.decode()


class Scrape(NamedTuple):
    """What a service showed at a moment, series by series, and which of them only ever grow."""

    at: float
    values: dict[str, float]
    growing: frozenset[str]


def scrape_of(text: str) -> Scrape:
    """Read what a service shows."""
    values: dict[str, float] = {}
    growing: set[str] = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [f"{name}={json.dumps(value)}" for name, value in sample.labels.items()]
            series = f"{sample.name}{{{','.join([*labels, _LABELS])}}}"
            values[series] = sample.value
            if family.type in {"counter", "histogram"} or sample.name.endswith("_position"):
                growing.add(series)
    return Scrape(time.time(), values, frozenset(growing))


class Timeline(NamedTuple):
    """How two real scrapes become the series that the rules are evaluated upon.

    For `quiet` steps the service is as it was before the fault. Then each step is like the one
    between the two scrapes: what only grows, grows as much again, all else stays.
    """

    step: str = "1m"
    quiet: int = 120
    lasts: int = 45

    @property
    def step_s(self) -> int:
        return {"1m": 60, "1h": 3600}[self.step]

    def series(self, before: Scrape, during: Scrape) -> Iterator[dict[str, str]]:
        yield {"series": f"up{{{_LABELS}}}", "values": f"1+0x{self.quiet + self.lasts}"}
        began_s = self.quiet * self.step_s
        for name in sorted(before.values.keys() | during.values.keys()):
            first, then = before.values.get(name), during.values.get(name)
            if "timestamp_seconds" in name:  # promtool's clock begins at 0
                first = None if first is None else first - before.at + began_s
                then = None if then is None else then - during.at + began_s
            grown = then - (first or 0) if then is not None and name in during.growing else 0
            yield {
                "series": name,
                "values": f"{_run(first, 0, self.quiet)} {_run(then, grown, self.lasts)}",
            }


def _run(start: float | None, step: float, count: int) -> str:
    return f"_x{count}" if start is None else f"{start:.6f}{step:+.6f}x{count - 1}"


async def assert_fires(
    folder: Path, before: Scrape, during: Scrape, names: set[str], over: Timeline | None = None
) -> None:
    """Have Prometheus's rule engine say that these alerts fire in the end, and none before."""
    over = over or Timeline()
    end = over.quiet + over.lasts - 1
    fire = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
    test = {
        "interval": over.step,
        "input_series": list(over.series(before, during)),
        "promql_expr_test": [
            {"expr": _FIRING, "eval_time": f"{at}{over.step[-1]}", "exp_samples": samples}
            for at, samples in ((over.quiet - 1, []), (end, fire))
        ],
    }
    about = {"rule_files": [str(RULES)], "evaluation_interval": over.step, "tests": [test]}
    path = folder / "test.yml"
    path.write_text(json.dumps(about))  # which is YAML too
    await run(tool("promtool"), "test", "rules", str(path))


def names_in(text: str) -> set[str]:
    """Return the names of userlog's metrics in rules or a dashboard."""
    return set(re.findall(r"\buserlog_\w+", text))
