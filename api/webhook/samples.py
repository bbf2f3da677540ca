"""The platform's documented samples: a user created, updated, deleted."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def load() -> dict[str, bytes]:
    """Return the samples by name, in order."""
    folder = resources.files("api.webhook").joinpath("samples")
    files = sorted(folder.iterdir(), key=lambda one: one.name)
    return {f"sample {one.name.removesuffix('.json')}": one.read_bytes() for one in files}
