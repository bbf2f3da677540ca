"""The rest of a body that was refused: the system drops it, and nothing of it is read.

A sender who writes a whole body before looking for an answer sees none if the connection is closed
meanwhile. So what still comes is taken from the socket until the body ends, but with MSG_TRUNC
(tcp(7)): its bytes are not even copied. To read a mebibyte and throw it away took four times as
long as everything else that a refused request costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

# The most that is dropped at once. The buffer is there because recv_into() wants one as large.
_PIECE = bytearray(1 << 18)


class Unread:
    """Bodies whose rest is being dropped, each for `patience_s` at most."""

    def __init__(self, most: int, patience_s: float) -> None:
        """At most so many at once."""
        self._most = most
        self._patience_s = patience_s
        self._rests: set[_Rest] = set()

    def drop(self, transport: asyncio.Transport, size: int) -> bool:
        """Drop so many bytes, also after the transport is closed; False if there is no room for it.

        The transport must read nothing more. Its connection ends when both are done.
        """
        if len(self._rests) == self._most or transport.is_closing():
            return False
        try:
            file = os.dup(transport.get_extra_info("socket").fileno())
        except OSError:  # the system gives no more files
            return False
        rest = _Rest(file, size)
        self._rests.add(rest)
        rest.ended.add_done_callback(lambda _: self._rests.discard(rest))
        rest.begin(self._patience_s)
        return True

    def close(self) -> None:
        """Give up all of them."""
        for rest in tuple(self._rests):
            rest.give_up()


class _Rest:
    """What is left of one body, with a file of its own for the connection."""

    def __init__(self, file: int, size: int) -> None:
        self._socket = socket.socket(fileno=file)
        self._left = size
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def begin(self, patience_s: float) -> None:
        self._timer = self._loop.call_later(patience_s, self.give_up)
        self._wait_for_more()
        self._loop.add_reader(self._socket, self._drop)

    def _wait_for_more(self) -> None:
        """Let the system wake this process when a whole piece has come, or the last."""
        enough = min(self._left, len(_PIECE))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, enough)

    def _drop(self) -> None:
        try:
            size = self._socket.recv_into(_PIECE, min(self._left, len(_PIECE)), socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError:  # the sender has hung up
            size = 0
        self._left -= size
        if not size or not self._left:
            self.end()
        elif self._left < len(_PIECE):
            self._wait_for_more()

    def give_up(self) -> None:
        """End without a reset, which may keep the answer from being read."""
        with contextlib.suppress(OSError):
            self._socket.recv_into(_PIECE, min(self._left, len(_PIECE)), socket.MSG_TRUNC)
        self.end()

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
            self._timer.cancel()
            self._loop.remove_reader(self._socket)
            self._socket.close()
