"""Parameters that many tests have, and their names."""

from __future__ import annotations

import pytest

MANY = pytest.mark.parametrize("partitions", [1, 4], indirect=True, ids="{}-partitions".format)


def short(value: object) -> str:
    """Name a parameter by how it starts."""
    return repr(value)[:40]
