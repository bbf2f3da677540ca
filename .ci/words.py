"""Plain words: fails where a text has words that a reader would have to decode.

Read are the code of the three packages, the schema, and the documents that have been rewritten; the
others are listed as exceptions until they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("api", "eventstore", "projections")
EXCEPTIONS = (
    *("docs/api.md", "docs/backup.md", "docs/deploying.md", "docs/monitoring.md"),
    *("docs/operations.md", "docs/performance.md", "docs/planner.md", "docs/time.md"),
)
WORDS = (
    *("in hand", "nobody", "whoever", "told", "what becomes of", "gone on with"),
    *("lobby", "entrance", "seldom", "set aside", "sets aside", "set_aside"),
)
SENTENCES = (
    "Answers while the database is not there yet",
    "Lets connections in, all that wait at once",
    "Says the first time that something happens, and then how often it did",
    "Let nobody past who has no token",
    "Give the request an id, its failures an answer, and the log a line",
    "becomes of those that bring no HTTP",
    "When that was",
    "What it is at",
    "As far as it looked",
    "a sender's clock that runs ahead shadows nothing",
    "What is no HTTP, never ends or never begins costs its sender the connection",
    "Looking after it",
    "Putting it into service",
)
_FOUND = re.compile(
    "|".join([rf"\b{re.escape(one)}\b" for one in WORDS] + [re.escape(one) for one in SENTENCES]),
    re.IGNORECASE,
)


def main() -> int:
    """Print each place where such a word stands; return how many there are."""
    found = 0
    for path in _texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in _FOUND.finditer(line):
                found += 1
                print(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    return found


def _texts() -> list[Path]:
    code = [path for name in CODE for path in (ROOT / name).rglob("*")]
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "schema.sql"]
    excepted = {ROOT / name for name in EXCEPTIONS}
    return sorted(
        path
        for path in (*code, *documents)
        if path.suffix in (".py", ".sql", ".md") and path not in excepted
    )


if __name__ == "__main__":
    sys.exit(min(main(), 1))
