"""Plain words: fails where a text has words that a reader would have to decode.

Read are the code of the three packages, the schema, and the texts of docs/. Names count too, of
files and in code, and so does what is broken over two lines.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("api", "eventstore", "projections", "docs")
# The last is that of a Containerfile.
SUFFIXES = (
    *(".py", ".sql", ".md", ".yml", ".yaml", ".json", ".toml", ".service"),
    *(".html", ".css", ".js", ""),
)
# Names of released tables can't be changed any more.
RELEASED = ROOT / "eventstore/postgres/upgrades"
WORDS = (
    *("in hand", "nobody", "whoever", "told", "what becomes of", "gone on with"),
    *("lobby", "entrance", "seldom", "set aside", "sets aside"),
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
# Between two words of one phrase: also `_` of a name and, over a line break, the marks of comments,
# quotations and strings.
_GAP = r"""[\s_#>*"'`/\\-]+(?:[bfr]{1,2}["'])?"""
_FOUND = re.compile(
    r"(?<![a-z])(?:"
    + "|".join(_GAP.join(map(re.escape, one.split())) for one in (*WORDS, *SENTENCES))
    + r")(?![a-z])",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def main() -> int:
    """Print each place where such a word stands; return how many there are."""
    found = 0
    for path in _texts():
        name = str(path.relative_to(ROOT))
        places = [(0, word) for _, word in _words(name)]
        places += _words(path.read_text(encoding="utf-8"))
        found += len(places)
        for line, word in places:
            print(f"{name}:{line}: {word}" if line else f"{name}: {word}, in its name")
    return found


def _words(text: str) -> list[tuple[int, str]]:
    """Return lines, and the words that begin there."""
    apart = _CAMEL.sub(" ", text)
    return [
        (apart.count("\n", 0, match.start()) + 1, " ".join(match[0].split()))
        for match in _FOUND.finditer(apart)
    ]


def _texts() -> list[Path]:
    paths = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()]
    paths += [*ROOT.glob("*.md"), ROOT / "schema.sql", ROOT / "pyproject.toml", ROOT / "Makefile"]
    released = set(RELEASED.iterdir())
    return sorted(path for path in paths if path.suffix in SUFFIXES and path not in released)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
