"""Characters that no terminal may get: they control it, or can't be seen.

They are listed here by themselves, apart from the code that escapes them.
"""

from __future__ import annotations

_C0, _DEL, _C1 = map(chr, range(0x20)), "\x7f", map(chr, range(0x80, 0xA0))
_LINES = "\u2028\u2029"
_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_NO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
_FORMAT = "\u00ad\u034f\u115f\u1160\u17b4\u180e\u2061\u2065\u206f\u3164\uffa0\ufff9\ufffa\ufffb"
_TAGS = map(chr, range(0xE0000, 0xE0080))
# All of them but surrogates, which UTF-8 does not have.
MARKS = "".join((*_C0, _DEL, *_C1, _LINES, _DIRECTION, _NO_WIDTH, _FORMAT, *_TAGS))
