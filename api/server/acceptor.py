"""Accepts all pending connections in one round of the event loop.

uvloop's own servers accept one in each round. While a round takes long, because there is much to
answer, connections that have just arrived would wait for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

_AT_ONCE = 256
# When no connection can be accepted, for want of files or memory: time for others to end.
_PAUSE_S = 1.0
_log = structlog.stdlib.get_logger("userlog.http")


class Acceptor:
    """Listening sockets, and the protocol of each connection that is accepted there."""

    def __init__(
        self, sockets: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """Accept from now on; `protocol` makes one for each connection."""
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._protocol = protocol
        self._connecting: set[asyncio.Task[None]] = set()
        for one in self._sockets:
            one.setblocking(False)  # noqa: FBT003 - as its own
            self._loop.add_reader(one, self._accept, one)

    def close(self) -> None:
        """Accept no more, and close the sockets; idempotent."""
        for one in self._sockets:
            if one.fileno() >= 0:
                self._loop.remove_reader(one)
                one.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                _log.warning("no connection can be accepted", problem=type(error).__name__)
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE_S, self._resume, listener)
                return
            connecting = self._loop.create_task(self._connect(connection))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    async def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - as its own
        with contextlib.suppress(OSError):  # it is closed already
            await self._loop.connect_accepted_socket(self._protocol, connection)
