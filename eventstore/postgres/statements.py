"""Named SQL statements, kept in `.sql` files beside the code that runs them."""

from __future__ import annotations

import re
from importlib import resources

_NAMED = re.compile(r"^-- \[(\w+)\][^\n]*\n(.*?)(?=^-- \[|\Z)", re.MULTILINE | re.DOTALL)


def load(package: str, name: str = "queries.sql") -> dict[str, str]:
    """Return the statements of a file by name; each starts with `-- [name] purpose`."""
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    return {match[1]: match[2].strip().rstrip(";") for match in _NAMED.finditer(text)}
