"""Every benchmark one after the other, each in a process of its own, and the aims at the end.

python benchmarks/all.py                  10 to 20 minutes
python benchmarks/all.py --smoke          one short round of each: do they work?
python benchmarks/all.py --json > FILE    every number, a line for each benchmark
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import msgspec
from common import Aim, Found, machine, table

BENCHMARKS = (
    *("append", "webhook", "point_in_time", "rebuild", "verify", "lag", "growth", "storage"),
)
_HERE = Path(__file__).parent


def measure(name: str, arguments: list[str]) -> bytes:
    """Run a benchmark; return what it found, as JSON."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(_HERE / f"{name}.py"), "--json", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603 - ours


def main() -> None:
    """Measure and print; what is missed is said, but is no error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one short round of each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    given = parser.parse_args()
    aims: list[Aim] = []
    for name in given.only:
        line = measure(name, ["--smoke"] if given.smoke else [])
        if given.json:
            print(line.decode(), end="", flush=True)
        aims += msgspec.json.decode(line, type=Found).aims
    if not given.json:
        print("\n".join(table(aims)))
        print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    main()
