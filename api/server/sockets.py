"""The sockets that the service listens on.

Several processes share a port by having a socket each, among which the kernel spreads what
arrives. All are opened by one process, which keeps them: what waits at the socket of a process that
dies is answered by the next one there.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import TYPE_CHECKING

from api.config.sources import PREFIX, SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator

# Connections that may wait to be accepted; the kernel may allow fewer.
BACKLOG = 4096


@contextlib.contextmanager
def listening(host: str, port: int, count: int = 1) -> Generator[list[list[socket.socket]]]:
    """Open a port for `count` processes: for each, a socket for each address of the host.

    SettingsError if it can't be had. Port 0 takes any that is free.
    """
    opened: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        try:
            _open(opened, host, port)
        except OSError as error:
            problem = error.strerror or type(error).__name__
            raise SettingsError(
                f"can't listen on {host}, port {port} ({problem});"
                f" see {PREFIX}HOST and {PREFIX}PORT"
            ) from None
        yield opened
    finally:
        for one in itertools.chain(*opened):
            one.close()


def _open(opened: list[list[socket.socket]], host: str, port: int) -> None:
    for family, address in _addresses(host, port):
        # Alone at first: sockets that share a port would also share it with another service.
        alone = _bound(family, address, port, shared=False)
        port = alone.getsockname()[1]
        if len(opened) == 1:
            opened[0].append(alone)
            continue
        alone.close()
        for sockets in opened:
            sockets.append(_bound(family, address, port, shared=True))


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, str(at[0])) for family, _, _, _, at in dict.fromkeys(found)]


def _bound(family: int, address: str, port: int, *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one
