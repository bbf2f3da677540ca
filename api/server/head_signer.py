"""Signs the heads of the log as it goes on, and brings the newest to where they are kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import structlog

from eventstore import signed_heads
from eventstore.errors import LogError, UnavailableError
from eventstore.postgres.files import FileRefusedError, no_link, sync_folder
from eventstore.signed_heads import ForgedError

if TYPE_CHECKING:
    from collections.abc import Generator
    from uuid import UUID

    from api.config.settings import Settings
    from eventstore.events import Position
    from eventstore.log import EventLog

FILE = "signed-heads"
AHEAD = "signed-heads.ahead"
_LOOK_S = 2.0
_PUSH_S = 10.0
_RETRY_S = (1.0, 300.0)
_OK = range(200, 300)
_log = structlog.stdlib.get_logger("userlog.heads")


class HeadSigner:
    """Signs the heads that are due, until stopped.

    The newest of each partition are kept in the table, in a file of the data directory, if there
    is one, and in the log; and posted to a URL, if one is set. No append waits for any of it.
    """

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._due = (
            settings.signed_head_events,
            timedelta(seconds=settings.signed_head_interval_s),
        )
        self._folder = Path(settings.data_dir)
        self._url = settings.signed_heads_url
        self._newest = ""
        # Whether the newest are in the file. At the start what was signed before may not be.
        self._is_kept = False
        self._to_push = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; idempotent."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run(), name="head signer")]
            if self._url:
                self._tasks.append(asyncio.create_task(self._push(self._url), name="head pusher"))

    async def stop(self) -> None:
        """End; idempotent. What was signed and not posted is in the table."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                await self.sign_due()
                said = ""
            except UnavailableError:
                pass  # the projector logs it
            except (LogError, OSError, FileRefusedError) as error:
                if said != str(error):
                    _log.error("heads can't be signed or kept", problem=str(error))
                said = str(error)
            except Exception as error:  # noqa: BLE001 - it must not end in silence
                if said != repr(error):
                    _log.error("heads can't be signed or kept", exc_info=error)
                said = repr(error)
            await asyncio.sleep(_LOOK_S)

    async def sign_due(self) -> None:
        """Sign the heads that are due, and bring them to where they are kept."""
        signed = await signed_heads.sign(self._log, *self._due)
        for head in signed:
            _log.info("signed head", position=str(head.position), note=head.note)
        if signed:
            self._is_kept = False
        if not self._is_kept:
            self._is_kept = await self._bring()

    async def _bring(self) -> bool:
        """Bring the newest to where they are kept; return whether they are in the file now.

        Whichever process writes it has read them while it was alone with it, so that none replaces
        newer ones.
        """
        with _alone_with(self._folder) as alone:
            if not alone:
                return False
            found = await signed_heads.newest(self._log)
            newest = "".join(one.note for one in found)
            if newest != self._newest:
                self._newest = newest
                self._to_push.set()
            if found and self._folder.is_dir():
                await asyncio.to_thread(self._write, {one.position for one in found})
        return True

    def _write(self, newest: set[Position]) -> None:
        """Replace the file as a whole; keep what it alone knows, as the log was set back."""
        with contextlib.suppress(FileNotFoundError):
            self._keep_ahead(newest)
        draft = self._folder / f"{FILE}.new"
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8", opener=no_link) as file:
            file.write(self._newest)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / FILE)
        sync_folder(self._folder)

    def _keep_ahead(self, newest: set[Position]) -> None:
        ends = dict(newest)
        with open(self._folder / FILE, encoding="utf-8", errors="replace", opener=no_link) as file:
            kept = file.read()
        ahead = [
            position
            for position in _positions(kept, self._log.log_id)
            if position.number > ends.get(position.partition, 0)
        ]
        if ahead:
            with open(self._folder / AHEAD, "a", encoding="utf-8", opener=no_link) as file:
                file.write(kept)
                file.flush()
                os.fsync(file.fileno())
            positions = [str(position) for position in ahead]
            problem = "the database knows nothing of heads that were signed: it was set back"
            _log.error(problem, positions=positions, kept_in=AHEAD)

    async def _push(self, url: str) -> None:
        """Post the newest, again and again until it is taken or there are newer ones."""
        timeout = aiohttp.ClientTimeout(total=_PUSH_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._to_push.wait()
                self._to_push.clear()
                pause_s, longest_s = _RETRY_S
                while problem := await self._post(session, url):
                    _log.warning("signed heads not taken", problem=problem, again_in_s=pause_s)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._to_push.wait(), pause_s)
                    self._to_push.clear()
                    pause_s = min(2 * pause_s, longest_s)

    async def _post(self, session: aiohttp.ClientSession, url: str) -> str:
        """Post once; return what went wrong, empty if it was taken."""
        try:
            async with session.post(
                url,
                data=self._newest.encode(),
                headers={"content-type": "text/plain"},
                allow_redirects=False,  # it would be asked there, and given nothing
            ) as response:
                return "" if response.status in _OK else f"answered with {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__


@contextlib.contextmanager
def _alone_with(folder: Path) -> Generator[bool]:
    """Be the only process that writes heads into a folder; say whether this one is.

    What can't be locked can't be written either, or has no other process beside this one.
    """
    with contextlib.ExitStack() as stack:
        alone = True
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            pass
        yield alone


def _positions(kept: str, log_id: UUID) -> list[Position]:
    """Return what a file says was signed of a log; nothing if it is none of signed heads."""
    try:
        texts = [note.partition("\n\n")[0] + "\n" for note in signed_heads.notes_in(kept)]
        heads = [signed_heads.SignedHead.read(text) for text in texts]
    except ForgedError:
        return []
    return [head.position for head in heads if head.log_id == log_id]
