"""Log lines: readable in a terminal, JSON elsewhere, and never a user's data in them.

The message of an exception may quote data (a value that could not be stored, a row that exists
already), so of exceptions only the types and places are written, not the messages. The key is
`raised`: `exception` is what a terminal's renderer takes for a traceback as text.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Literal

import structlog

from api.observe.visible import behind, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class ThrottledLog:
    """Rate-limits repeated lines: the first at once, then one with a count every few seconds."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s = every_s
        self._times: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def warning(self, log: structlog.stdlib.BoundLogger, event: str, **about: object) -> None:
        """Log a warning, unless the same one was logged a moment ago."""
        self._say(log.warning, event, event, about)

    def info(
        self, log: structlog.stdlib.BoundLogger, event: str, same: str, **about: object
    ) -> None:
        """Log a line, unless one with the same text `same`, of which there are few, just was."""
        self._say(log.info, event, f"{event} {same}", about)

    def _say(
        self, say: Callable[..., None], event: str, same: str, about: dict[str, object]
    ) -> None:
        self._times[same] += 1
        now = time.monotonic()
        if now - self._logged_at.get(same, -float("inf")) >= self._every_s:
            say(event, times=self._times.pop(same), **about)
            self._logged_at[same] = now


def configure(level: str, style: Literal["auto", "text", "json"]) -> None:
    """Send structlog's and the libraries' lines to standard error."""
    readable = style == "text" or (style == "auto" and sys.stderr.isatty())
    last: tuple[Processor, ...] = (structlog.processors.JSONRenderer(),)
    if readable:
        last = (_visible_values, structlog.dev.ConsoleRenderer())
    stream = behind(sys.stderr)  # the renderers write out what can't be seen, and have colours
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _places_only,
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # A line and its end in one write: several processes write to one place.
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_library_line, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.raiseExceptions = False  # or a line that can't be formatted is shown with its arguments
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _visible_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make texts visible; of all else the renderer writes the repr, which escapes as well."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = visible(value)
    return event


def _places_only(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its chain of types and the places in the code it passed."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exception() if given else None
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        event["raised"] = [type(one).__name__ for one in _chain(error)]
        event["places"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _library_line(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep of a library's line the message's template and drop what was filled into it.

    Only its first line: asyncio's go on with what it knows of a task, its exception included.
    An exception in the place of a template is one more that is not to be quoted.
    """
    record: logging.LogRecord = event["_record"]
    template: object = record.msg
    name = type(template).__name__
    event["event"] = template.partition("\n")[0] if isinstance(template, str) else name
    event["logger"] = record.name
    event["exc_info"] = record.exc_info[1] if record.exc_info else None
    return event
