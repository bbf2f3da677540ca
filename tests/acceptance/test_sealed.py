"""Who has the database and not the master key learns ids and times, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp

from eventstore.postgres.embedded import psql_path
from tests.support.deliveries import APP, delivery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import Home

# `make sealed-test` sends more.
USERS = int(os.environ.get("USERLOG_TEST_USERS", "60"))
EVENTS_EACH = 5
# In every name, e-mail, username, picture and unknown field; and what every phone begins with.
MARK, PHONES = "quillfeather", "8123456"
PATH = f"/v1/applications/{APP}/users"
_HEXADECIMAL = re.compile(rb"\\\\x((?:[0-9a-f]{2})*)")


def person(number: int, turn: int) -> bytes:
    """Make a delivery about a user, with another name and another phone each time."""
    name = f"{MARK}{number}t{turn}"
    fields: dict[str, Any] = {
        "first_name": f"Zephyrine {name}",
        "last_name": name.title(),
        "username": name,
        "profile_pic_url": f"/{name}.png",
        "emails": [{"email": f"{name}@{MARK}.example", "verified": True}],
        "phone_numbers": [{"phone": phone(number, turn), "country_code": 91}],
        "nickname": {"said": [name]},
    }
    return delivery(f"u{number}", "update" if turn else "create", turn * 60_000, **fields)


def phone(number: int, turn: int) -> str:
    return f"{PHONES}{(number * EVENTS_EACH + turn) % 1000:03d}"


def needles() -> Iterator[bytes]:
    """What is looked for: the marks as they are, in UTF-16, in hexadecimal and in base64."""
    for mark in (MARK, MARK.title(), MARK.upper(), "ephyrine", PHONES):
        plain = mark.encode()
        yield from (plain, mark.encode("utf-16-le"), plain.hex().encode())
        for shift in range(3):  # a letter of base64 has six bits, so a mark has three forms
            encoded = base64.b64encode(bytes(shift) + plain).rstrip(b"=")
            yield encoded[-(-shift * 4 // 3) + 1 : -1]


def found_in(folder: Path, wanted: list[bytes]) -> list[str]:
    """Return the files below a folder that have one of these in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(one in path.read_bytes() for one in wanted)]


def dumped(url: str) -> bytes:
    """Return a dump, with bytes as they are: seven digits come by chance among hexadecimal ones."""
    command = [str(psql_path().with_name("pg_dump")), url]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    plain, count = _HEXADECIMAL.subn(lambda found: bytes.fromhex(found[1].decode()), text)
    assert count >= EVENTS_EACH * USERS
    return plain


async def test_without_the_master_key(own_home: Home, tmp_path: Path) -> None:
    """No byte of data directory, dump, base backup, log or metrics is what somebody told."""
    home = own_home.where(USERLOG_LOG_LEVEL="debug")
    backup = own_home.folder.with_name("backup")
    async with home.serving() as service:
        for turn in range(EVENTS_EACH):
            for first in range(0, USERS, 50):
                some = range(first, min(first + 50, USERS))
                bodies = [person(number, turn) for number in some]
                answers = await asyncio.gather(*(service.post(b, home.secret) for b in bodies))
                assert set(answers) == {200}
        last = (await home.json("status"))["heads"][0]["position"]
        page = await service.get(f"{PATH}/u1?min_position={last}")
        assert page.body["state"]["username"] == f"{MARK}1t{EVENTS_EACH - 1}"
        for query in (f"email={MARK}1t4@{MARK}.example", f"phone={phone(1, 4)}"):
            asked = await service.get(f"{PATH}?{query}")
            found = [user["user_id"] for user in asked.body["users"]]
            assert "u1" in found, "among those who share the phone, if there are many"
        async with home.database() as database:
            await database.execute("ANALYZE")
            await database.execute("CHECKPOINT")
            rows = [
                row["sealed"]
                for table in ("users", "history")
                for row in await database.fetch(f"SELECT sealed FROM userlog.{table}")
            ]
            terms = {
                term.bytes
                for row in await database.fetch("SELECT terms || former AS all FROM userlog.terms")
                for term in row["all"]
            }
        dump = await asyncio.to_thread(dumped, home.database_url())
        assert (await home.run("backup", str(backup))).code == 0
        headers = {"Authorization": f"Bearer {home.token}"}
        async with aiohttp.request("GET", f"{service.base}/metrics", headers=headers) as answer:
            assert answer.status == 200
            metrics = await answer.read()
        log = home.folder.with_suffix(".log")
        assert await service.stop(signal.SIGTERM) == 0
    wanted = list(needles())
    (tmp_path / "answer").write_text(json.dumps(page.body))
    assert found_in(tmp_path, wanted), "an answer has what is looked for"
    assert found_in(home.folder, wanted) == []
    assert found_in(backup, wanted) == []
    for name, text in (("dump", dump), ("metrics", metrics), ("log", log.read_bytes())):
        assert not any(one in text for one in wanted), name
    assert len(rows) == len(set(rows)) == USERS * (EVENTS_EACH + 1), "no two rows are equal"
    assert not guesses() & terms


def guesses() -> set[bytes]:
    """What somebody without the key may try: hashes of every phone that there is here."""
    found: set[bytes] = set()
    for number in range(1000):
        for digits in (f"{PHONES}{number:03d}", f"91{PHONES}{number:03d}"):
            for text in (digits, f"phone\0{digits}", f"phone\0{APP}\0{digits}"):
                for name in ("md5", "sha1", "sha256", "blake2b"):
                    found.add(hashlib.new(name, text.encode()).digest()[:16])
                found.add(hashlib.blake2b(text.encode(), digest_size=16).digest())
    return found
