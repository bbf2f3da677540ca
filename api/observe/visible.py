"""What no terminal may take as an order, and no reader could see: written out instead.

A name, an e-mail or a header is typed by a stranger. A control character in it moves the cursor,
sets the clipboard or forges a line; a mark of direction or of no width makes another text look like
the right one. `visible` is the one rule, for people; `visible_json` is the same for JSON, which
still decodes to the same value.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec

if TYPE_CHECKING:
    from re import Match

# Letters of all scripts, accents, variation selectors and spaces are not here. U+200C and U+200D
# are, but stay where they belong.
_INVISIBLE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1; line breaks and tabs among them
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction
    "\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff"  # no width, and formats that are deprecated
    "\xad\u034f\u180e\ufff0-\ufffb"  # soft hyphen, joiners, notes between lines
    "\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters that show nothing: Hangul, Khmer
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # shorthand and music
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"  # tags, and what is kept for their like
    "\ud800-\udfff"  # halves of a character
    "]"
)
_INVISIBLE_IN_LINES = re.compile(rf"(?!\n){_INVISIBLE.pattern}")
_C0 = re.compile("[\x00-\x1f]")
_STRING_OR_NOT = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"]++', re.DOTALL)
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9
_AFTER_AN_EMOJI = "\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_ARROW_IN_EMOJI = "\u2194"


def visible(text: str, *, lines: bool = False) -> str:
    r"""Write out what can't be seen: `\x1b`, `\u202e`, `\n`; with `lines`, line breaks stay.

    A backslash is not doubled. So a name in which somebody typed the four characters `\x1b` looks
    like one with an escape; neither does anything, and `--json` tells them apart. Doubling would
    change every JSON in a table, and could not be applied twice: all output is checked again where
    it leaves.
    """
    return (_INVISIBLE_IN_LINES if lines else _INVISIBLE).sub(_escaped, text)


def visible_json(text: str) -> str:
    r"""Do the same to a JSON document, which stays one of the same value: `\u001b`, `\u202e`.

    A line break or a tab between its values becomes a space.
    """
    if _C0.search(text):
        text = _STRING_OR_NOT.sub(_spaced, text)
    return _INVISIBLE.sub(_escaped_in_json, text)


def json_text(value: Any) -> str:  # noqa: ANN401 - anything
    """Write any value as JSON that can be shown."""
    return visible_json(msgspec.json.encode(value).decode())


def _spaced(found: Match[str]) -> str:
    return found[0] if found[0][0] == '"' else _C0.sub(" ", found[0])


def _escaped(found: Match[str]) -> str:
    return found[0] if _joins(found) else found[0].encode("unicode_escape").decode()


def _escaped_in_json(found: Match[str]) -> str:
    if _joins(found):
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _joins(found: Match[str]) -> bool:
    """Say whether it is a joiner where a script or an emoji needs one (RFC 5892, appendix A)."""
    if found[0] not in (_NON_JOINER, _JOINER):
        return False
    start, end = found.span()
    before, after = found.string[max(0, start - 3) : start], found.string[end : end + 1]
    if _is_virama(before[-1:]) or _is_virama(after):
        return True
    if found[0] == _JOINER and _is_emoji(before.rstrip(_AFTER_AN_EMOJI)[-1:]):
        return _is_emoji(after)
    return _is_arabic(before[-1:]) and _is_arabic(after)


def _is_virama(char: str) -> bool:
    return char != "" and unicodedata.combining(char) == _VIRAMA


def _is_emoji(char: str) -> bool:
    return char != "" and (unicodedata.category(char) == "So" or char == _ARROW_IN_EMOJI)


def _is_arabic(char: str) -> bool:
    return char != "" and unicodedata.bidirectional(char) == "AL"


class VisibleStream:
    """A text stream that lets nothing through but what can be seen, and line breaks.

    It has no `buffer`: bytes would pass by it. `behind` is the stream that it writes to.
    """

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write text, made visible."""
        self.behind.write(visible(text, lines=True))
        return len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        """Have everything else as the stream has it."""
        if name in ("behind", "buffer", "writelines"):
            raise AttributeError(name)
        return getattr(self.behind, name)


def guarded(stream: TextIO) -> TextIO:
    """Put a VisibleStream in front of a stream, unless it is one."""
    return stream if isinstance(stream, VisibleStream) else cast("TextIO", VisibleStream(stream))


def behind(stream: TextIO) -> TextIO:
    """Return the stream itself, for what was made visible already and has colours of its own."""
    given: object = stream
    return given.behind if isinstance(given, VisibleStream) else stream
