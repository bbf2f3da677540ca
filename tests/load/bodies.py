"""Bodies that a platform might send on its worst day: nearly right, wrong, and garbage."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.support.deliveries import UPDATE, documented, envelope

SAMPLE: dict[str, Any] = json.loads(UPDATE)
IDS = ("", "u", "a/b", "..", ".", "%2F", " ", "é", "\U0001f600", "x" * 200, "x" * 201, "a\0b", "-1")
NUMBERS = (0, -1, 1, 1.5, 10**11, 10**18, 10**30, -(10**30), 1e308, 2**63, 2**64, 253402300800000)
TEXTS = (
    *("", "\0", "\ud800", "\udfff\ud800", "\u2028", "NaN", "null", "0", "1e999", "x" * 5_000),
    *("2023-06-13T09:48:47.621Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "yesterday"),
    *("'; DROP TABLE userlog.events; --", "\N{BYTE ORDER MARK}", "a\u0301", "\t\r\n", "{}", "[]"),
)
TOPICS = ("user", "user", "user", "users", "ping", "address", "", "USER", None, 7)
TYPES = ("create", "update", "update", "delete", "restore", "", None, 1)
NAMES = (*SAMPLE["payload"][0]["user"], "user_id", "application_id", "extra", "emails", "", "\0")


class Bodies:
    """Makes one body after another, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._makers = (
            *[self._delivery] * 4,
            *[self._changed] * 6,
            *[self._damaged] * 3,
            *(self._garbage, self._deep, self._twice, self._wrapped, self._several),
        )
        self._sent: list[bytes] = []

    def next(self) -> bytes:
        """Make one, or send one of the last again."""
        if self._sent and self._random.random() < 0.1:
            return self._random.choice(self._sent)
        body = self._random.choice(self._makers)()
        self._sent = [*self._sent[-99:], body]
        return body

    def _user(self) -> dict[str, Any]:
        chance = self._random
        user: dict[str, Any] = copy.deepcopy(SAMPLE["payload"][0]["user"])
        user["user_id"] = chance.choice((*IDS, *(f"user-{chance.randrange(500)}" for _ in IDS)))
        user["first_name"] = chance.choice(("A", "B", "C", *TEXTS))
        user["__v"] = chance.choice((1, 2, *NUMBERS))
        return user

    def _tree(self) -> dict[str, Any]:
        chance = self._random
        kind, at_ms = chance.choice(("create", "update", "delete")), chance.randrange(10**9)
        event_id = f"event-{chance.randrange(2_000)}" if chance.random() < 0.3 else None
        user, application_id = {"user": self._user()}, chance.choice(("a" * 24, "b" * 24, "c"))
        if chance.random() < 0.5:
            delivered = envelope([user], kind, at_ms, id=event_id)
            return delivered | {"application_id": application_id}
        tree = documented(user, kind, at_ms, id=event_id)
        tree["meta"]["application_id"] = application_id
        return tree

    def _delivery(self) -> bytes:
        return json.dumps(self._tree(), ensure_ascii=self._random.random() < 0.9).encode(
            errors="surrogatepass"
        )

    def _changed(self) -> bytes:
        """Put something else into some places of a delivery."""
        tree: Any = self._tree()
        for _ in range(self._random.randint(1, 3)):
            self._change(tree)
        return json.dumps(tree).encode()

    def _change(self, tree: Any) -> None:
        chance = self._random
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                return
            key = chance.choice(list(keys))
            if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.7:
                place = place[key]
                continue
            if isinstance(place, dict) and chance.random() < 0.2:
                del place[key]
                key = chance.choice(NAMES)
            place[key] = self._value()
            return

    def _value(self, depth: int = 0) -> Any:
        chance = self._random
        if depth < 3 and chance.random() < 0.2:
            return [self._value(depth + 1) for _ in range(chance.randrange(4))]
        if depth < 3 and chance.random() < 0.2:
            return {
                chance.choice(NAMES): self._value(depth + 1) for _ in range(chance.randrange(4))
            }
        return chance.choice(
            (None, True, False, float("nan"), float("inf"), *NUMBERS, *TEXTS, *TOPICS, *TYPES, *IDS)
        )

    def _damaged(self) -> bytes:
        """Change some bytes of a delivery."""
        chance = self._random
        body = bytearray(self._delivery())
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            match chance.randrange(4):
                case 0:
                    body[at] = chance.randrange(256)
                case 1:
                    del body[at : at + chance.randint(1, 40)]
                case 2:
                    body[at:at] = chance.randbytes(chance.randint(1, 8))
                case _:
                    body[at:at] = chance.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b'"'))
            if not body:
                break
        return bytes(body)

    def _garbage(self) -> bytes:
        chance = self._random
        return chance.choice(
            (
                chance.randbytes(chance.randrange(2_000)),
                *(b"", b" ", b"null", b"0", b"[]", b"{}", b'"user"', b"\xef\xbb\xbf{}", b"{" * 50),
                self._delivery() + b" trailing",
                b" \n" + self._delivery() + b"\n",
            )
        )

    def _deep(self) -> bytes:
        depth = self._random.choice((20, 90, 101, 500, 5_000, 100_000))
        deep = b"[" * depth + b"]" * depth
        return self._delivery().replace(
            b'"first_name": ', b'"deep": ' + deep + b', "first_name": ', 1
        )

    def _twice(self) -> bytes:
        """Name a key twice."""
        body, chance = self._delivery(), self._random
        return (
            b'{"event": 1, ' + body[1:]
            if chance.random() < 0.5
            else body[:-1] + b', "payload": []}'
        )

    def _wrapped(self) -> bytes:
        tree = {"data": self._tree()}
        return json.dumps({"data": tree} if self._random.random() < 0.3 else tree).encode()

    def _several(self) -> bytes:
        tree = self._tree()
        users = [{"user": self._user()} for _ in range(self._random.randrange(12))]
        tree["payload"] = [*users, *[self._value() for _ in range(self._random.randrange(3))]]
        return json.dumps(tree).encode()
