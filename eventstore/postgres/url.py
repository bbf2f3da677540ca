"""Database URLs: what is wrong with one, and what of it the driver gets. Pure.

Parameters are libpq's (https://www.postgresql.org/docs/current/libpq-connect.html). A URL holds a
password, so nothing here quotes more of one than the names of its parameters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = "postgresql://user:password@host:5432/database"
_SCHEMES = ("postgresql", "postgres")
_PORT_MAX = 65_535
_NAME = re.compile(r"[a-z_]{1,40}")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BLANK = re.compile(r"[\s\0]")

# What the driver understands.
_UNDERSTOOD = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "dbname", "database", "options"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "service"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("target_session_attrs", "krbsrvname", "gsslib"),
    }
)
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# What userlog sets itself, or what only makes sense to libpq.
_IGNORED = frozenset(
    {
        *("application_name", "fallback_application_name", "client_encoding", "connect_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "load_balance_hosts", "sslcompression", "sslsni", "sslcertmode"),
        *("channel_binding", "gssencmode", "gssdelegation"),
    }
)
# Of these the driver, or userlog, can't do everything.
_VALUES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "read-write"),
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
}


def problems(url: str) -> list[str]:
    """Say what is wrong with a URL, a sentence for each mistake."""
    if url[:1] in {'"', "'"}:
        return ["it stands in quotes; write it without them"]
    if _BLANK.search(url):
        return ["there is a blank or a line break in it; a blank is written %20"]
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES or not rest:
        return [f"it must begin with {_SCHEMES[0]}://, without the name of a driver"]
    try:
        parts = urlsplit(url)
    except ValueError:
        return ["an IPv6 address stands in [ ], and a [ in a password is written %5B"]
    found = list(_badly_written(url, *parts.netloc.rpartition("@"), f"{parts.path}?{parts.query}"))
    return found or [*_missing(url), *_parameters(parts.query)]


def _badly_written(url: str, login: str, at: str, _hosts: str, after: str) -> Iterator[str]:
    """What has a meaning of its own in a URL; with such a mistake all else is read wrongly."""
    if "#" in url:
        yield "a # in user or password is written %23"
    if "@" in login:
        yield "an @ in user or password is written %40"
    path, _, query = after.partition("?")
    if "@" in path or (not at and "@" in query):
        yield "a / in user or password is written %2F, and a ? is written %3F"
    if _LONE_PERCENT.search(url):
        yield "a % is written %25"


def _missing(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not (parts.path.strip("/") or query.get("dbname") or query.get("database")):
        yield "the name of the database is missing at its end"
    ports = [host.rpartition("]")[2].rpartition(":")[2] for host in hosts if _has_port(host)]
    named = query["port"].split(",") if "port" in query else []
    if not all(port.isdecimal() and 0 < int(port) <= _PORT_MAX for port in (*ports, *named)):
        yield f"a port is a number from 1 to {_PORT_MAX}"
    others = query.get("host", parts.netloc).split(",")
    if len(named) > 1 and len(named) != len(others):
        yield "there is neither one port for all hosts nor one for each"


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _parameters(query: str) -> Iterator[str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        yield "after the ? stand parameters as name=value, with & between them"
        return
    for name, value in given:
        if not _NAME.fullmatch(name):
            yield "the name of a parameter can't be one; a ? in user or password is written %3F"
        elif name not in _UNDERSTOOD | _IGNORED:
            yield f"the parameter {name} is not known"
        elif name in _VALUES and value not in _VALUES[name]:
            yield f"{name} can be {', '.join(_VALUES[name])}"


def ignored(url: str) -> list[str]:
    """Name the parameters that change nothing."""
    return [name for name, _ in parse_qsl(urlsplit(url).query) if name in _IGNORED]


def files(url: str) -> dict[str, str]:
    """Return the files of certificates and keys, by the name of the parameter."""
    given = parse_qsl(urlsplit(url).query)
    return {name: value for name, value in given if name in _FILES and value != "system"}


def for_driver(url: str) -> str:
    """Return a URL without the parameters that are ignored; the driver would pass them on."""
    if not ignored(url):
        return url
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in given if name not in _IGNORED]
    return urlunsplit(parts._replace(query=urlencode(kept, safe="/")))


def each_host(url: str) -> list[str]:
    """Split a URL of several hosts (`a:5432,b:5432`, or `?host=a,b&port=1,2`) into one of each."""
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")
    netlocs = [at[0] + at[1] + host for host in at[2].split(",")]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts, ports = (query.get(name, "").split(",") for name in ("host", "port"))
    if len(ports) == 1:
        ports *= len(hosts)
    if len(netlocs) > 1 or len(hosts) == 1:
        return [urlunsplit(parts._replace(netloc=netloc)) for netloc in netlocs]
    named = [
        {**query, **{k: v for k, v in (("host", host), ("port", port)) if v}}
        for host, port in zip(hosts, ports, strict=False)
    ]
    return [urlunsplit(parts._replace(query=urlencode(one, safe="/"))) for one in named]
