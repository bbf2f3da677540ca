"""The hosts of a database's URL."""

from __future__ import annotations

import pytest

from eventstore.postgres.failover import each_host


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("postgresql://u:p@a/db", ["postgresql://u:p@a/db"]),
        ("postgresql://u@/db?host=/run/pg", ["postgresql://u@/db?host=/run/pg"]),
        (
            "postgresql://u:p%40@a:1,b:2,[::1]:3/db?sslmode=require",
            [
                f"postgresql://u:p%40@{host}/db?sslmode=require"
                for host in ("a:1", "b:2", "[::1]:3")
            ],
        ),
        (
            "postgresql://u@/db?host=/one,/two&port=1,2",
            ["postgresql://u@/db?host=/one&port=1", "postgresql://u@/db?host=/two&port=2"],
        ),
        (
            "postgresql://u@/db?host=a,b&port=7",
            ["postgresql://u@/db?host=a&port=7", "postgresql://u@/db?host=b&port=7"],
        ),
        ("postgresql://u@/db?host=a,b", ["postgresql://u@/db?host=a", "postgresql://u@/db?host=b"]),
    ],
    ids=["one", "socket", "several", "queries", "one-port", "no-port"],
)
def test_each_host(url: str, urls: list[str]) -> None:
    """A URL of several hosts is split into one of each, everything else as it was."""
    assert each_host(url) == urls
