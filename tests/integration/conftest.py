from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the code says in its log during a test."""
    said = Lines()
    structlog.configure(processors=[structlog.stdlib.add_log_level, said])
    yield said
    structlog.reset_defaults()
