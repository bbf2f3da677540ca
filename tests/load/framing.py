"""Ask a running service in every wrong way there is, and see that it neither fails nor leaks.

    python tests/load/framing.py --requests 30000

First the kinds made by hand, then requests that are made of those by damaging them, and questions
to every route with odd parameters. Whatever is sent, no answer may be a 5xx, hold something of
another application, or keep the connection; and no error may be logged. An honest client asks
meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import honest
from framing_kinds import BODY, OTHER_APP, OTHER_USER, USER, kinds
from odd_values import KEYS, LIMITS, POSITIONS, TEXTS, TIMES, escape
from started import child, serving

from api.webhook.verify import HEADER, sign
from tests.support.deliveries import APP, delivery, encoded, entry, envelope
from tests.support.raw import LIVE, NO_HTTP, damaged, talk
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.processes import Home, Service

CONNECTIONS = 48
FAULTS_MAX = 20
SHOWN = 1_500
AGAIN_MAX = 5
NOT_NOW = b"urn:userlog:problem:not-available-now"
# In every event of the other application, and in no request.
MARK = b"of-the-other-application"
# So that a head that never ends does so soon, and nothing waits for long.
SETTINGS = {"USERLOG_IDLE_TIMEOUT_S": "3", "USERLOG_WAIT_TIMEOUT_S": "0.1"}
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
_VALUES = (*TEXTS, *TIMES, *POSITIONS, *LIMITS, *KEYS, "asc", "active", "2023-06-13")
_IDS = (*TEXTS, APP, OTHER_APP, USER, OTHER_USER)
_GOOD = {"application_id": (APP, APP, OTHER_APP), "user_id": (USER, USER, OTHER_USER)}


class FramingError(Exception):
    """So many answers that must not be that it is of no use to go on."""


class Framing:
    """Sends and counts."""

    def __init__(self, service: Service, token: str, secret: str, seed: int) -> None:
        """`token` is that of one application."""
        self._service, self._token = service, token
        signature = f"{HEADER}: {sign(BODY, secret)}\r\n"
        self.kinds = kinds(token, signature.encode())
        self._random = random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.busy = 0

    async def by_hand(self) -> None:
        """Send all that was made by hand."""
        await self.send(
            (f"{kind} {number}", request)
            for kind, requests in self.kinds.items()
            for number, request in enumerate(requests)
        )

    async def generated(self, count: int) -> None:
        """Send so many that nobody has thought of."""
        description = (await self._service.get("/openapi.json")).body
        make = self._generate(description["paths"])
        await self.send((f"generated {number}", next(make)) for number in range(count))

    async def send(self, requests: Iterable[tuple[str, bytes]]) -> None:
        """Send each on a connection of its own, and note answers that must not be."""
        waiting = iter(requests)

        async def one_after_the_other() -> None:
            for name, request in waiting:
                try:
                    answer = await self._ask_again(request)
                except TimeoutError:
                    self._wrong(f"{name}: the connection stays", request, b"")
                else:
                    self._judge(name, request, answer)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(one_after_the_other())

    async def _ask_again(self, request: bytes) -> bytes:
        """Ask, and again as clients do where a busy service says so; `busy` counts that."""
        answer = b""
        for _ in range(AGAIN_MAX):
            answer = await talk(self._service, request, LIVE)
            if NOT_NOW not in answer or b"min_position" in request:
                break
            self.busy += 1
        return answer

    def _judge(self, name: str, request: bytes, answer: bytes) -> None:
        statuses = [int(one) for one in _STATUS.findall(answer)]
        self.statuses.update(statuses or [0])
        # Most positions are ahead of the log, so no waiting brings the read model there.
        allowed = {503} if b"min_position" in request else set()
        if any(status >= 500 for status in set(statuses) - allowed):
            self._wrong(f"{name}: {statuses}", request, answer)
        if MARK in answer:
            self._wrong(f"{name}: of another application", request, answer)

    def _wrong(self, what: str, request: bytes, answer: bytes) -> None:
        self.faults.append(f"{what}, {request[:SHOWN]!r} got {answer[:SHOWN]!r}")
        if len(self.faults) == FAULTS_MAX:
            raise FramingError("\n".join(self.faults))

    def _generate(self, paths: dict[str, Any]) -> Iterator[bytes]:
        chance = self._random
        by_hand = [*NO_HTTP.values(), *(one for kind in self.kinds.values() for one in kind)]
        routes = [
            (method, path, operation.get("parameters", ()))
            for path, operations in paths.items()
            for method, operation in operations.items()
        ]
        while True:
            if chance.random() < 0.4:
                yield damaged(chance.choice(by_hand), chance)
                continue
            asked = self._ask(*chance.choice(routes))
            yield damaged(asked, chance) if chance.random() < 0.2 else asked

    def _ask(self, method: str, path: str, parameters: Iterable[dict[str, Any]]) -> bytes:
        """Ask a route with some of its parameters, or of others'."""
        chance = self._random

        def fill(match: re.Match[str]) -> str:
            odd = chance.random() < 0.3
            return escape(chance.choice(_IDS if odd else _GOOD[match[1]])).decode()

        target = re.sub(r"{(\w+)}", fill, path)
        names = [one["name"] for one in parameters if one["in"] == "query"]
        names += [chance.choice(("limit", "after", "application_id", "a[]", "", "\0"))]
        given = [
            escape(name) + b"=" + escape(chance.choice(_VALUES))
            for name in chance.choices(names, k=chance.randrange(4))
        ]
        headers = [b"Host: x"]
        if chance.random() < 0.95:
            headers.append(b"Authorization: Bearer " + self._token.encode())
        if chance.random() < 0.1:
            value = chance.choice((*POSITIONS, *LIMITS)).encode()
            headers.append(
                chance.choice((b"Last-Event-ID", b"Content-Length", b"Age")) + b": " + value
            )
        query = b"?" + b"&".join(given) if given else b""
        first = method.upper().encode() + b" " + target.encode() + query + b" HTTP/1.1"
        return b"\r\n".join((first, *headers, b"", b""))


async def prepare(service: Service, secret: str) -> None:
    """Bring a user of each application; all that is known of the other's has the mark."""
    name = MARK.decode()
    other = envelope([entry(OTHER_USER, first_name=name)], "create", application=OTHER_APP)
    for body in (delivery(USER, "create", first_name="Asha"), encoded(other)):
        assert await service.post(body, secret) == 200
    path = f"/v1/applications/{OTHER_APP}/users/{OTHER_USER}"

    async def known() -> bool:
        found = await service.get(path)
        return found.status == 200 and name in json.dumps(found.body)

    await until(known)


def errors_logged(home: Home) -> list[str]:
    """Return the lines of the service's log that are errors."""
    lines = home.folder.with_suffix(".log").read_text().splitlines()
    return [line for line in lines if json.loads(line)["level"] == "error"]


async def tenant(home: Home) -> str:
    """Make a token that reads one application."""
    made = await home.json("token", "create", "--name", "tenant", "--application", APP)
    token: str = made["token"]
    return token


async def run(count: int, seed: int) -> bool:
    """Fuzz a service of its own; return whether everything holds."""
    async with serving(**SETTINGS) as (home, service), child(honest) as client:
        await honest.prepare(service, home.secret)
        await prepare(service, home.secret)
        port = int(service.base.rpartition(":")[2])
        order = honest.Order(port, home.secret, home.token, 10, 10)
        alone = await client.obey(order, honest.Report)
        found: list[honest.Report] = []

        async def ask() -> None:
            while True:
                found.append(await client.obey(order, honest.Report))

        fuzz = Framing(service, await tenant(home), home.secret, seed)
        asking = asyncio.create_task(ask())
        try:
            await fuzz.by_hand()
            await fuzz.generated(count)
            await until(lambda: found)
        finally:
            asking.cancel()
        faults = [*fuzz.faults, *errors_logged(home)]
    print(f"{len(fuzz.kinds)} kinds by hand, {count} generated: {dict(fuzz.statuses)}")
    print(f"{fuzz.busy} were asked again, as the service was not able to answer in time")
    slowest = max(one.p99_ms for one in found)
    print(f"honest p99 alone {alone.p99_ms:.0f} ms, meanwhile at most {slowest:.0f} ms")
    answers = sum((Counter(one.deliveries) + Counter(one.reads) for one in found), Counter[int]())
    print(f"honest answers by their status: {dict(answers)}")
    print(*faults, f"{len(faults)} faults", sep="\n")
    return set(answers) == {200} and not faults


def main() -> None:
    """Fuzz a service of its own; exit 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    sys.exit(not asyncio.run(run(given.requests, given.seed)))


if __name__ == "__main__":
    main()
