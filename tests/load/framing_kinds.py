"""Requests that lie about where they end, are no requests, or ask oddly: 38 kinds made by hand.

All show the token of one application. Another one has users too, and nothing of theirs may come
back.
"""

from __future__ import annotations

from itertools import product

from odd_values import KEYS, LIMITS, POSITIONS, TEXTS, TIMES, escape

from tests.support.deliveries import APP
from tests.support.raw import CHUNKED, HEAD, MARK

OTHER_APP = "b" * 24
USER, OTHER_USER = "mine", "theirs"
BODY = b'{"event":{"name":"ping"}}'


def kinds(token: str, signed: bytes) -> dict[str, list[bytes]]:
    """Make all kinds; `signed` is the header of a signature that fits `BODY`."""
    asked = _Asked(token)
    return _framing(asked, HEAD + signed) | _heads(asked) | _parameters(asked)


class _Asked:
    """Writes questions."""

    def __init__(self, token: str) -> None:
        self._token = f"Authorization: Bearer {token}\r\n".encode()
        self.user = f"/v1/applications/{APP}/users/{USER}".encode()
        self.others = f"/v1/applications/{OTHER_APP}/users/{OTHER_USER}".encode()

    def get(
        self, path: bytes = b"", headers: bytes = b"", method: bytes = b"GET", *, token: bool = True
    ) -> bytes:
        """Ask for something, the user if it is not said what."""
        first = method + b" " + (path or self.user) + b" HTTP/1.1\r\nHost: x\r\n"
        return first + (self._token if token else b"") + headers + b"\r\n"

    def headers(self, *each: bytes) -> list[bytes]:
        """Ask for the user with one header after the other."""
        return [self.get(headers=one + b"\r\n") for one in each]


def _lengths(head: bytes, *lengths: bytes, body: bytes = BODY) -> list[bytes]:
    return [head + b"Content-Length: " + one + b"\r\n\r\n" + body for one in lengths]


def _framing(asked: _Asked, head: bytes) -> dict[str, list[bytes]]:
    """Requests of which it is not clear where they end."""
    length, wrapped = b"Content-Length: 25\r\n", b"19\r\n" + BODY + b"\r\n0\r\n\r\n"
    codings = (
        b"gzip, chunked",
        b"chunked, identity",
        b"xchunked",
        b"chunked, chunked",
        b"\x0bchunked",
    )
    sizes = (
        b"-1",
        b"0x5",
        b"F" * 16,
        b"F" * 40,
        b"5 ",
        b" 5",
        b"0" * 40 + b"5",
        b'5;a="',
        b"5\0",
        b"",
    )
    inner = asked.get(asked.others)
    chunked = b"Transfer-Encoding: chunked\r\n"
    return {
        "a length that is too long": _lengths(head, b"26", b"999999"),
        "a length that is too short": _lengths(head, b"0", b"1", b"24"),
        "a length that is no number": _lengths(
            head,
            b"-25",
            b"+25",
            b"0x19",
            b"25, 25",
            b"25,26",
            b"",
            b"2 5",
            b"9" * 40,
            b"25.0",
            b"\xb25",
        ),
        "length and chunks": [
            head + length + chunked + b"\r\n" + wrapped,
            head + chunked + length + b"\r\n" + wrapped,
            head + b"Content-Length: 4\r\n" + chunked + b"\r\n" + wrapped + inner,
            head.replace(b"1.1", b"1.0") + chunked + b"\r\n" + wrapped,
        ],
        "several or odd transfer codings": [
            *(head + b"Transfer-Encoding: " + one + b"\r\n\r\n" + wrapped for one in codings),
            head + b"Transfer-Encoding : chunked\r\n\r\n" + wrapped,
            head + 2 * chunked + b"\r\n" + wrapped,
        ],
        "odd chunk sizes": [CHUNKED + one + b"\r\n{    \r\n0\r\n\r\n" for one in sizes],
        "chunks that end oddly": [
            CHUNKED + one
            for one in (
                b"5\n{    \n0\n\n",
                b"5\r\n{    0\r\n\r\n",
                b"5\r\n{    \r\n",
                b"0\r\n",
                b"5\r{    \r0\r\r",
            )
        ],
        "trailers that change the request": [
            head + chunked + b"\r\n19\r\n" + BODY + b"\r\n0\r\n" + one + b"\r\n\r\n"
            for one in (b"Content-Length: 1", b"Authorization: Bearer x", b"Host: y", b": z", MARK)
        ],
        "a request inside a body": [
            *_lengths(head, b"%d" % len(inner), body=inner),
            head + chunked + b"\r\n%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n",
            asked.get(headers=b"Content-Length: %d\r\n" % len(inner)) + inner,
        ],
        "pipelined garbage": [
            asked.get() + one for one in (b"\r\n\r\n\r\n", b"\0" * 99, MARK, b"GET")
        ],
        "pipelined with and without a token": [
            asked.get() + asked.get(token=False) + inner + asked.get(asked.others, token=False),
            10 * asked.get() + 10 * inner,
        ],
    }


def _heads(asked: _Asked) -> dict[str, list[bytes]]:
    """Heads that are odd, or none."""
    get, user, others = asked.get, asked.user, asked.others
    tails = (b"%00", b"/%2e%2e", b"/..", b"//", b"/", b";a=b", b"\\..\\", b"/./", b"/%2F", b"%20")
    bad = (b"%zz", b"%", b"%c0%ae%c0%ae", b"%252e%252e", b"%ed%a0%80", b"%f8%88%80%80%80", b"%ff")
    other = b"/../../" + OTHER_APP.encode() + b"/users/" + OTHER_USER.encode()
    accepted = (
        b"",
        b"text/html",
        b"*/*;q=0",
        b"text/event-stream",
        b"a/b/c",
        b"," * 4_000,
        b"\xff",
    )
    accepts = tuple(b"Accept: " + one + b"\r\nAccept-Encoding: " + one for one in accepted)
    ranges = (
        *(b"Range: bytes=0-1", b"Range: bytes=-1,5-2,x", b"If-Match: *", b"If-None-Match: *"),
        *(b"If-Modified-Since: x", b'If-Range: "a"', b"Range: bytes=" + b"0-," * 2_000),
    )
    rewriting = (b"X-Original-URL", b"X-Rewrite-URL", b"X-Forwarded-Prefix", b"Forwarded")
    shown = (
        *(
            b"Basic YTpi",
            b"bearer",
            b"Bearer",
            b"Bearer  ",
            b"Bearer \xff",
            b"Bearer \0",
            b"Bearer a b",
        ),
        *(b"Bearer userlog_", b"Bearer userlog__", b"Bearer userlog_00000000_" + b"x" * 7_000),
    )
    odd = (
        b"get",
        b"TRACE",
        b"CONNECT",
        b"PRI",
        b"GET\0",
        b"",
        b"X" * 60,
        b"GET ",
        b"PATCH",
        b"OPTIONS",
    )
    websocket = b"\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    upgrades = [b"Connection: " + one + websocket for one in (b"Upgrade", b"Authorization", b"")]
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA"
    versions = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.10", b"http/1.1", b"")
    targets = (
        *(b"http://other" + user, b"https://x:1@y" + others, b"other:80", b"*", user + b"#a"),
        *(b"//other" + user, b"?"),
    )
    content = b"\r\nContent-Length: 25\r\n\r\n" + BODY
    codings = (b"br", b"gzip", b"deflate, gzip", b"zstd", b"\xff", b"identity", b"")
    return {
        "a NUL": [*asked.headers(b"A: \0", b"A\0: b"), get(user + b"\0")],
        "control characters in a header": asked.headers(b"A: \r", b"A: \x0b", b"A: \x1b[2J"),
        "a header as large as may be, and larger": asked.headers(
            *(b"A: " + n * b"x" for n in (8_180, 8_187, 8_191, 70_000))
        ),
        "odd names of headers": asked.headers(
            *(one + b": x" for one in (b"", b" ", b"a b", b"\xe9", b"a_b", b"(", b"x" * 9_000))
        ),
        "obsolete folds": asked.headers(b"A: b\r\n c", b"A:\r\n\tb", b" A: b"),
        "a header twice": asked.headers(
            *(b"Authorization: Bearer x", b"Host: y", b"Content-Length: 0\r\nContent-Length: 0"),
            b"X-Request-Id: a\r\nX-Request-Id: b",
        ),
        "HTTP/2": [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), *asked.headers(h2c)],
        "other versions": [
            *(get().replace(b"HTTP/1.1", one) for one in versions),
            b"GET " + user + b"\r\n\r\n",
        ],
        "other methods": [get(method=one) for one in odd],
        "targets that are no path": [get(one) for one in targets],
        "odd paths": [
            get(one) for tail in tails for one in (user + tail, user + tail + other, tail + user)
        ],
        "odd escapes in a path": [
            *(get(user + one) for one in bad),
            get(user.replace(b"users", b"%75sers")),
            get(others.replace(b"b" * 24, b"%62" * 24)),
        ],
        "very long paths": [
            *(get(user + n * b"x") for n in (300, 8_000, 9_000)),
            get(3_000 * b"/a"),
        ],
        "odd Accept": asked.headers(*accepts),
        "ranges and conditions": asked.headers(*ranges),
        "expectations": asked.headers(
            *(b"Expect: " + one for one in (b"100-continue", b"200-ok", b"", MARK))
        ),
        "upgrades": asked.headers(*upgrades),
        "other content": [
            HEAD + b"Content-Encoding: " + one + b"\r\nContent-Type: " + one + content
            for one in codings
        ],
        "headers that would rewrite the request": asked.headers(
            *(one + b": " + others for one in rewriting), b"X-HTTP-Method-Override: DELETE"
        ),
        "odd tokens": [
            get(headers=b"Authorization: " + one + b"\r\n", token=False) for one in shown
        ],
    }


def _parameters(asked: _Asked) -> dict[str, list[bytes]]:
    """Questions in odd words."""
    get, user = asked.get, asked.user
    users = user.rpartition(b"/")[0]
    escaped = [escape(one) for one in TEXTS]
    ids = [escape(one) for one in (*TEXTS, OTHER_APP, APP.upper())]
    paths = [
        *(b"/v1/applications/%s/users/%s" % (one, OTHER_USER.encode()) for one in ids),
        *(b"/v1/applications/%s/stats?from=2023-06-13&to=2023-06-13" % one for one in ids),
        *(users + b"/" + one + tail for one in ids for tail in (b"", b"/history")),
    ]
    queries = {
        "times": (user, ("valid_at", "known_at"), TIMES),
        "limits": (user + b"/history", ("limit", "order"), LIMITS),
        "keys of a page": (users, ("after",), KEYS),
        "positions": (user, ("min_position",), POSITIONS),
    }
    whole = user + b"/history"
    odd = (
        b"?limit",
        b"?limit=",
        b"?=1",
        b"?&&",
        b"?limit=1;order=asc",
        b"?limit=%00",
        b"?limit=+1",
        b"?limit[]=1",
        b"?limit=%c0%b1",
        b"?limit=%",
        b"?%6cimit=1",
        b"?limit=1?limit=2",
        b"?\xff=1",
    )
    return {
        "odd ids": [get(one) for one in paths],
        **{
            f"odd {name}": [
                get(path + b"?" + parameter.encode() + b"=" + value)
                for parameter, value in product(names, [*map(escape, values), *escaped])
            ]
            for name, (path, names, values) in queries.items()
        },
        "parameters given twice, or unknown": [
            get(whole + one)
            for one in (
                b"?limit=1&limit=2",
                b"?order=asc&order=x",
                b"?a=1",
                b"?" + b"&".join([b"limit=1"] * 900),
                b"?application_id=" + OTHER_APP.encode(),
            )
        ],
        "odd queries": [get(whole + one) for one in odd]
        + [get(users + b"?email=" + n * b"x") for n in (300, 7_000, 9_000)],
    }
