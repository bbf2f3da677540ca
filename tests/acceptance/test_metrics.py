"""Metrics of several processes that are watched as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.monitoring import scraped

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Home


async def test_any_process_shows_all(tmp_path: Path, made_home: Home) -> None:
    """With prometheus_client's several processes, each shows what all of them did."""
    shared = tmp_path / "shared"
    shared.mkdir()
    home = made_home.alone().where(PROMETHEUS_MULTIPROC_DIR=str(shared))
    async with home.serving() as one, home.serving() as other:
        await made_home.send(one)
        await made_home.send(other)
        found, also = [await scraped(each.base, home.token) for each in (one, other)]
    for values in (found, also):
        assert values["userlog_deliveries_total", "taken"] == 6
        assert values["userlog_events_total", "accepted"] == 3
        assert values["userlog_append_duration_seconds_count",] == 6
        assert values["userlog_queue_events",] == 0
        assert values["userlog_queue_limit_events",] == 20_000
        assert values["userlog_log_head_position", "0"] == 3
        assert values["userlog_database_up",] == 1
        assert values["userlog_data_dir_free_bytes",] > 0
        assert values["process_resident_memory_bytes",] > 0
