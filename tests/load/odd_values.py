"""Values of parameters that are wrong, hardly right, or of another parameter."""

from __future__ import annotations

from urllib.parse import quote

TEXTS = (
    *("", "0", "-1", "+1", "1.5", "1e3", "0x10", "٣", "9" * 30, "null", "true", "NaN", "[]", "{}"),
    *("a\0b", "\r\nA: b", "\ud800", "\u202e", "é", "\U0001f600", " ", "%", "'; --", "../..", "*"),
    *("x" * 201, "x" * 7_000),
)
TIMES = (
    *("2023-06-13T09:48:47.621Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "2023-02-30"),
    *("2023-06-13T09:48:47.621+99:99", "1686649727621", "-1", "253402300800000", "2023-06-13 09Z"),
)
POSITIONS = ("0:0", "0:1", "0:99999999", "0:9223372036854775808", "1:1", "-1:1", "0:-1", "0", ":")
LIMITS = ("0", "1", "1000", "1001", "2147483648", "-5")
KEYS = ("0-" + "0" * 32, "-1-" + "f" * 32, "0" * 83, "f" * 97, "g" * 83, "00")


def escape(text: str) -> bytes:
    """Write a text as it may stand in a path or a query."""
    return quote(text.encode(errors="surrogatepass"), safe="").encode()
