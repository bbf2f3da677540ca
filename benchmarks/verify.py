"""Verifying the log with one process and with two, and only what came after a signed head.

Beside the rates stands the processor time of each verified event, of userlog and of PostgreSQL.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import asyncpg
from common import MASTER_KEY, Aim, Found, Options, run, server, userlog_in
from data import Shape, fill

from eventstore import signed_heads
from eventstore.verify.whole import Against, verify
from projections.rebuild.log_source import LogSource
from projections.rebuild.verify_parts import PARTS_EACH, in_processes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/load"))
from processor import Usage

if TYPE_CHECKING:
    import argparse

    from common import Server, Userlog

_EVENTS_OF_A_USER = 10
_AFTER = 0.01


class Verified:
    """Verifies in so many processes, and says what it took for each event."""

    def __init__(self, running: Server, opened: Userlog, postmaster: int) -> None:
        self._source = LogSource(running.url, MASTER_KEY, None, 60)
        self._log = opened.log
        self._usage = Usage(os.getpid(), postmaster)

    async def measure(self, processes: int, against: Against, events: int) -> dict[str, float]:
        """Verify once."""
        run_parts = in_processes(self._log, self._source, processes) if processes > 1 else None
        postgres_s, ours_s, began = self._usage.postgres_s(), _ours_s(), time.perf_counter()
        findings = await verify(
            self._log,
            progress=lambda _done, _all: None,
            against=against,
            pieces=processes * PARTS_EACH if processes > 1 else 1,
            run=run_parts,
        )
        took_s = time.perf_counter() - began
        assert not findings
        return {
            "events_per_s": events / took_s,
            "seconds": took_s,
            "userlog_us": (_ours_s() - ours_s) / events * 1e6,
            "postgres_us": (self._usage.postgres_s() - postgres_s) / events * 1e6,
        }


def _ours_s() -> float:
    """Return the processor time of this process, and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


async def _postmaster(url: str) -> int:
    """Return the process of the server, the parent of a backend."""
    connection = await asyncpg.connect(url)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    await connection.execute("VACUUM ANALYZE")
    parent = _parent(backend)
    await connection.close()
    return parent


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("PPid:")[2].split()[0])


async def measure(args: argparse.Namespace) -> Found:
    """Measure all in alternating rounds."""
    shape = Shape(args.events, args.events // _EVENTS_OF_A_USER)
    after = max(1, int(args.events * _AFTER))
    async with server() as running, userlog_in(running.url) as opened:
        await fill(opened.log, Shape(shape.events - after, shape.users))
        await signed_heads.sign(opened.log, 1, timedelta(0))
        await fill(opened.log, Shape(after, shape.users, seed=2))
        key = (await signed_heads.signing_key(opened.log)).public
        signed = [key.check(one.note) for one in await signed_heads.newest(opened.log)]
        since = Against(since={one.position.partition: one for one in signed})
        events = sum(head.position.number for head in await opened.log.heads())
        verified = Verified(running, opened, await _postmaster(running.url))
        rounds: dict[str, list[dict[str, float]]] = {"one": [], "two": [], "since": []}
        for _ in range(args.rounds):
            rounds["one"].append(await verified.measure(1, Against(), events))
            rounds["two"].append(await verified.measure(2, Against(), events))
            rounds["since"].append(await verified.measure(1, since, events))
    numbers: dict[str, Any] = {"events": events, "users": shape.users}
    for name, measured in rounds.items():
        numbers[name] = {what: median(one[what] for one in measured) for what in measured[0]}
    one, two = (numbers[name]["events_per_s"] for name in ("one", "two"))
    return Found("verify", numbers, [Aim("verify, two processes / one", two, one, 1.6)])


if __name__ == "__main__":
    options = Options(__doc__)
    options.set_defaults(rounds=3)
    options.add_argument("--events", type=int, default=2_000_000)
    given = options.given()
    if given.smoke:
        given.events = 5_000
    run(measure(given), json=given.json)
