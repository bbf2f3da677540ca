"""What decides is pure: fails where it reads a clock, randomness, a file or anything else outside.

Listed is what it may import, not what it may not: a list of what is forbidden would lack the next
module. Imports for types alone don't count. What comes in as an argument can't be seen here.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("eventstore", "projections", "api")

# With all that they import. eventstore.sealing.seal is not here: each nonce is random.
PURE = (
    *("api.webhook.decode", "api.webhook.sizes", "api.webhook.verify"),
    *("eventstore.events", "projections.deliveries", "projections.prove.differences"),
    *("projections.fold.events", "projections.fold.folder", "projections.fold.history"),
    *("projections.fold.interruptible", "projections.fold.poison", "projections.fold.search_keys"),
    *("projections.fold.state", "projections.read_models"),
    *("projections.query.formats", "projections.query.views"),
)
# But for these imports, of modules that do more than what is taken from them: eventstore.read also
# reads the log, beside opening a row that it is given; columns reads its dictionary when it is
# imported; tables writes rows, beside making statements. Of the driver it is its UUID alone, which
# is made in a tenth of the time that Python's own takes.
NOT_FOLLOWED = (
    ("eventstore.events", "asyncpg"),
    ("projections.fold.search_keys", "asyncpg"),
    ("projections.fold.folder", "eventstore.read"),
    ("projections.read_models", "projections.tables"),
    ("projections.sealed", "eventstore.sealing.columns"),
)

IMPORTS = frozenset(
    {
        *("__future__", "collections", "datetime", "enum", "functools", "hashlib", "json"),
        *(
            "hmac",
            "msgspec",
            "operator",
            "phonenumbers",
            "re",
            "struct",
            "typing",
            "unicodedata",
            "uuid",
        ),
    }
)
# Of any object, also when imported: of datetime, date and uuid, which are needed for the rest.
ATTRIBUTES = frozenset(
    {
        *("now", "utcnow", "today"),
        *("getnode", "uuid1", "uuid4", "uuid6", "uuid7", "uuid8"),
    }
)
# Built in. hash() of a text is another in each process, and id() of everything.
NAMES = frozenset(
    {
        *("__builtins__", "__import__", "breakpoint", "compile", "eval", "exec"),
        *("hash", "id", "input", "open", "print"),
    }
)


def main() -> int:
    """Print what is impure; return how much is."""
    graph = grimp.build_graph(
        *PACKAGES,
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )
    for importer, imported in NOT_FOLLOWED:
        graph.remove_import(importer=importer, imported=imported)
    pure = {one for name in PURE for one in (name, *graph.find_descendants(name))}
    upstream = {one for name in pure for one in graph.find_upstream_modules(name)}
    modules = pure | {one for one in upstream if _is_ours(one)}
    faults = [
        f"{module} imports {other}, but decides, or is imported by what does"
        for module in modules
        for other in graph.find_modules_directly_imported_by(module)
        if not _is_ours(other) and other not in IMPORTS
    ]
    for module in modules:
        path = _path(module)
        faults += [
            f"{path.relative_to(ROOT)}:{line}: {what}, in what decides"
            for line, what in _impure(ast.parse(path.read_text(encoding="utf-8")))
        ]
    for fault in sorted(faults):
        print(fault, file=sys.stderr)
    print(f"pure modules: {len(modules)}, {len(faults)} faults")
    return len(faults)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _impure(tree: ast.Module) -> list[tuple[int, str]]:
    """Return lines, and what they have of clock, randomness, files or waiting."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in ATTRIBUTES:
                found.append((node.lineno, name))
            case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
                found.append((node.lineno, name))
            case ast.ImportFrom(names=names):
                found += [(node.lineno, one.name) for one in names if one.name in ATTRIBUTES]
            case ast.Call(func=ast.Attribute(attr="astimezone"), args=[], keywords=[]):
                found.append((node.lineno, "the local time zone"))
            case ast.AsyncFunctionDef(name=name):
                found.append((node.lineno, f"async def {name}"))
            case _:
                pass
    return found


if __name__ == "__main__":
    sys.exit(min(main(), 1))
