"""Database URLs: what is wrong with them, what is ignored, and their hosts."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.postgres.url import EXAMPLE, each_host, for_driver, ignored, problems
from tests.support.urls import PASSWORD, WRONG


@pytest.mark.parametrize(("url", "words"), WRONG.values(), ids=WRONG)
def test_mistakes(url: str, words: list[str]) -> None:
    """Each mistake has a sentence, which quotes nothing."""
    found = problems(url)
    assert len(found) == len(words)
    for sentence, word in zip(found, words, strict=True):
        assert word in sentence
        assert PASSWORD not in sentence


@pytest.mark.parametrize(
    "url",
    [
        *(EXAMPLE, "postgres://h/d", "postgresql:///d", "postgresql://u@/d?host=/run/pg&port=1"),
        *("postgresql://u:p@a:1,b,[::1]:3/d", "postgresql://h?dbname=d", "postgresql://u:p,q@h/d"),
        "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem&options=-c%20a%3Db",
    ],
)
def test_good_ones(url: str) -> None:
    """What libpq takes as well."""
    assert problems(url) == []
    assert for_driver(url) == url


@given(st.text())
def test_any_password(password: str) -> None:
    """Written as it has to be, any is good; written as it is, it is what is meant, or named."""
    written = quote(password.encode(errors="surrogatepass"), safe="")
    assert problems(f"postgresql://u:{written}@h/d") == []
    raw = f"postgresql://u:{password}@h/d"
    if not problems(raw) and "%" not in password:
        parts = urlsplit(raw)
        assert (unquote(parts.password or ""), parts.hostname) == (password, "h")


def test_what_is_ignored() -> None:
    """What changes nothing is named, and the driver is not told of it."""
    url = "postgresql://u:p%40@h/d?connect_timeout=3&sslmode=require&keepalives=1&host=/a/b"
    assert ignored(url) == ["connect_timeout", "keepalives"]
    assert for_driver(url) == "postgresql://u:p%40@h/d?sslmode=require&host=/a/b"


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
