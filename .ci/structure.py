"""The structure of the three packages, counted from their imports; fails where a rule is broken.

Rules: at most 12 rooms (folders and modules) at the top of a package; rooms can be put in an order
in which none imports one above it; no circle of files; no file above 300 lines; no file that the
graph of imports lacks, since no rule would hold for it. The order itself stands in pyproject.toml,
as import-linter's contracts.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("eventstore", "projections", "api")
ROOMS_MAX = 12
LINES_MAX = 300
_NO_ROOMS = ("__init__.py", "__main__.py", "__pycache__", "py.typed")


def main() -> int:
    """Print what was counted, then what breaks a rule; return how much does."""
    faults: list[str] = []
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    for package in PACKAGES:
        rooms = _rooms(package)
        lines = _lines(package)
        longest = max(lines, key=lambda path: lines[path])
        print(
            f"{package}: {len(rooms)} rooms on {_floors(graph, package)} floors,"
            f" {len(lines)} files,"
            f" median {statistics.median(lines.values()):g} lines,"
            f" longest {longest} with {lines[longest]}"
        )
        if len(rooms) > ROOMS_MAX:
            faults.append(f"{package} has {len(rooms)} rooms, more than {ROOMS_MAX}: {rooms}")
        faults += [
            f"{path} has {count} lines, more than {LINES_MAX}"
            for path, count in lines.items()
            if count > LINES_MAX
        ]
        faults += [
            f"{path} is in no package: a folder lacks __init__.py, or the name is no module's"
            for path in lines
            if _module(path) not in graph.modules
        ]
    circles = _circles(graph)
    print(f"circles of files: {len(circles)}")
    faults += [f"a circle of files: {', '.join(sorted(circle))}" for circle in circles]
    for fault in faults:
        print(fault, file=sys.stderr)
    return len(faults)


def _rooms(package: str) -> list[str]:
    paths = (ROOT / package).iterdir()
    return sorted(p.name for p in paths if p.name not in _NO_ROOMS and p.suffix != ".sql")


def _lines(package: str) -> dict[str, int]:
    return {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / package).rglob("*.py")
    }


def _module(path: str) -> str:
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def _floors(graph: grimp.ImportGraph, package: str) -> int:
    """Return how many rooms stand above each other; ValueError if an import runs up."""
    rooms = sorted(graph.find_children(package))
    below = {
        room: {
            other
            for other in rooms
            if other != room
            and graph.find_shortest_chains(importer=room, imported=other, as_packages=True)
        }
        for room in rooms
    }
    for room in rooms:
        if up := [other for other in below[room] if room in below[other]]:
            raise ValueError(f"an import runs up between {room} and {', '.join(up)}")

    def floor(room: str) -> int:
        return 1 + max(map(floor, below[room]), default=0)

    return max(map(floor, rooms))


def _circles(graph: grimp.ImportGraph) -> list[set[str]]:
    """Return each largest set of files that import each other, directly or through others."""
    above = {one: graph.find_downstream_modules(one) for one in graph.modules}
    circles = {
        frozenset({one, *(other for other in above[one] if one in above[other])})
        for one in graph.modules
    }
    return [set(circle) for circle in circles if len(circle) > 1]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
