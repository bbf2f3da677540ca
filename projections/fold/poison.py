"""The error that an event raises that can't be projected, whatever is wrong with it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.deliveries.values import UnreadableError

if TYPE_CHECKING:
    from eventstore.events import Position

_WORDS = {"UnreadableError": "unreadable", "SealBrokenError": "seal-broken"}


class PoisonError(Exception):
    """An event of the log can't be projected, and nothing of its user after it is, until it can.

    `reason` is a fixed word or, for a defect that only this event brings to light, the type of
    the exception. Like the message it quotes nothing of the event.
    """

    def __init__(self, position: Position, reason: str, detail: str = "") -> None:
        """`detail` may add to the reason, in fixed words as well."""
        why = f"{reason}, {detail}" if detail else reason
        super().__init__(f"event {position} can't be read ({why})")
        self.position = position
        self.reason = reason

    @property
    def is_defect(self) -> bool:
        """Whether it is an error that no code foresees."""
        return self.reason not in _WORDS.values()


def poison_of(position: Position, error: Exception) -> PoisonError:
    """Return what to raise of whatever went wrong with an event.

    A lack of memory is no event's fault, and raised as it is.
    """
    if isinstance(error, MemoryError):
        raise error
    name = type(error).__name__
    detail = error.reason if isinstance(error, UnreadableError) else ""
    return PoisonError(position, _WORDS.get(name, name), detail)
