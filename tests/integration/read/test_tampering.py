"""Everything that somebody with all rights, triggers off, can do to the log, and how it is found.

By `verify` alone, or by `verify` with a signed head that was kept elsewhere; docs/proof.md names
what can't be found, with the reason.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventstore import signed_heads
from eventstore.audit import Act
from eventstore.signed_heads import PublicKey, SignedHead
from eventstore.verify.finding import Note
from eventstore.verify.whole import Against, verify, verify_part
from projections.project.projector import catch_up
from tests.support.deliveries import APP, delivery
from tests.support.events import BY

if TYPE_CHECKING:
    from tests.conftest import Stack

pytestmark = pytest.mark.parametrize("partitions", [3], indirect=True)
AT_ONCE = timedelta(0)
USERS = 24


async def filled(stack: Stack) -> list[SignedHead]:
    """Record events of many users, erase one of each partition, sign; return the signed heads.

    Then more is recorded, projected, and not signed. A backup of the users' keys is kept.
    """
    for turn in range(3):
        for n in range(USERS):
            await stack.ingest.deliver(delivery(f"u{n}", "update", turn, first_name=f"{n}"))
        if turn == 0:
            await stack.admin.execute("CREATE TABLE public.kept AS SELECT * FROM userlog.streams")
            for partition in range(3):
                await stack.log.erase(one_of(stack, partition), BY, "asked for it")
        elif turn == 1:
            await stack.log.audit.write(Act("subject", BY), one_of(stack, 1, 1))
            await signed_heads.sign(stack.log, 1, AT_ONCE)
    await catch_up(stack.log, 1000)
    key = await signed_heads.signing_key(stack.log)
    stored = await signed_heads.newest(stack.log)
    assert len(stored) == 3
    return [key.public.check(one.note) for one in stored]


def one_of(stack: Stack, partition: int, nth: int = 0) -> Any:
    """Return a user of a partition."""
    streams = [stack.log.stream(APP, f"u{n}") for n in range(USERS)]
    return [one for one in streams if one.partition == partition][nth]


async def findings(stack: Stack, *signed: SignedHead, notes: list[Note] | None = None) -> list[str]:
    """Verify, with nothing in memory."""
    stack.log.keyring.forget_all()
    stack.log.own_keys._found.clear()
    against = Against(notes or [], signed)
    found = await verify(stack.log, progress=lambda _done, _all: None, against=against)
    return [str(one) for one in found]


async def tamper(stack: Stack, statements: str) -> None:
    """Do what only a superuser can, with the guards off."""
    connection = await asyncpg.connect(stack.url)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statements)
    finally:
        await connection.close()


def names(*users: int, swapped: bool = False) -> str:
    """Give users of partition 1 another name, or each other's."""
    first, second = (
        f"(SELECT ctid FROM userlog.streams WHERE partition = 1 AND data_key IS NOT NULL"
        f" ORDER BY stream_id OFFSET {n} LIMIT 1)"
        for n in (users * 2)[:2]
    )
    if swapped:
        return (
            "UPDATE userlog.streams s SET user_id = o.user_id FROM userlog.streams o"
            f" WHERE (s.ctid, o.ctid) IN (({first}, {second}), ({second}, {first}))"
        )
    return f"UPDATE userlog.streams SET {{}} WHERE ctid = {first}"


ERASED = "partition = 1 AND erased_position IS NOT NULL"
LIVING = "partition = 1 AND data_key IS NOT NULL"
# A chain that fits what is there now: anybody can compute it, the hashes have no key.
RECHAIN = """
DO $$
DECLARE
    e userlog.events;
    leaf bytea;
    leaves bytea := '';
    chained bytea := decode(repeat('00', 32), 'hex');
    at bigint := 0;
BEGIN
    CREATE TEMPORARY TABLE anew AS SELECT * FROM userlog.events WHERE partition = 1
        ORDER BY position;
    DELETE FROM userlog.events WHERE partition = 1;
    FOR e IN SELECT * FROM anew ORDER BY position LOOP
        at := at + 1;
        e.position := at;
        leaf := sha256(int4send(1) || int8send(at) || uuid_send(e.stream_id) || int2send(e.kind)
            || timestamptz_send(e.occurred_at) || timestamptz_send(e.recorded_at)
            || e.identity || e.digest || e.payload);
        e.leaf := substring(leaf FROM 1 FOR 8);
        chained := sha256(chained || leaf);
        e.chain := chained;
        INSERT INTO userlog.events SELECT e.*;
    END LOOP;
    UPDATE userlog.log_head SET position = at, chain = chained, recorded_at =
        (SELECT max(recorded_at) FROM userlog.events WHERE partition = 1) WHERE partition = 1;
END
$$
"""
EARLIER = "UPDATE userlog.events SET occurred_at = 'epoch' WHERE partition = 1 AND position = 2"
NO_SIGNED = "DELETE FROM userlog.signed_heads"
NO_CHECKPOINTS = "UPDATE userlog.checkpoints SET position = 0"
NO_AUDIT = (
    "DELETE FROM userlog.audit WHERE partition = 1;"
    "UPDATE userlog.audit_head SET number = 0, chain = decode(repeat('00', 32), 'hex'), since ="
    " (SELECT position FROM userlog.log_head WHERE partition = 1) WHERE partition = 1"
)
# A user erased by hand, as erase() does it, with this in the audit; keys and names are not needed.
ERASE = (
    "SELECT userlog.erase(1, h.fingerprint, NULL, s.stream_id, 5, decode(repeat('01', 16), 'hex'),"
    " decode(repeat('01', 8), 'hex'), s.application_id, s.user_id, NULL, {}) FROM userlog.streams s"
    " JOIN userlog.log_head h ON h.partition = 1"
    " WHERE s.partition = 1 AND s.data_key IS NOT NULL {} LIMIT 1"
)
# An old event once more, dated otherwise: it opens, and the chain goes on.
COPY = """
DROP INDEX userlog.events_identity;
WITH event AS (
    SELECT e.*, h.position + 1 AS at, h.chain AS before, h.recorded_at AS now
    FROM userlog.log_head h JOIN userlog.events e ON e.partition = 1 AND e.position = 1
    WHERE h.partition = 1
), hashed AS (
    SELECT *, sha256(int4send(1) || int8send(at) || uuid_send(stream_id) || int2send(3::smallint)
        || timestamptz_send(now) || timestamptz_send(now) || identity || digest || payload) AS hash
    FROM event
), copied AS (
    INSERT INTO userlog.events (partition, kind, position, stream_id, occurred_at, recorded_at,
        identity, digest, leaf, payload, chain)
    SELECT 1, 3, at, stream_id, now, now, identity, digest, substring(hash FROM 1 FOR 8), payload,
        sha256(before || hash) FROM hashed RETURNING position, chain
)
UPDATE userlog.log_head h SET position = c.position, chain = c.chain FROM copied c
WHERE h.partition = 1
"""

TAMPERING: dict[str, tuple[str, str]] = {
    "a user renamed": (names(0).format("user_id = 'somebody'"), "belongs to a user whose names"),
    "an application renamed": (
        names(0).format("application_id = 'other'"),
        "belongs to a user whose names",
    ),
    "the names of two users swapped": (names(0, 1, swapped=True), "belongs to a user whose names"),
    "a user's row removed": (
        f"DELETE FROM userlog.streams WHERE {LIVING}",
        "key and name are gone",
    ),
    "a key destroyed without an erasure": (
        f"UPDATE userlog.streams SET data_key = NULL WHERE {LIVING}",
        "key is gone without an erasure",
    ),
    "the same, with a position": (
        f"UPDATE userlog.streams SET data_key = NULL, erased_position = 1 WHERE {LIVING}",
        "key is gone without an erasure",
    ),
    "the same, with another user's erasure": (
        (
            "UPDATE userlog.streams SET data_key = NULL, erased_position = (SELECT erased_position"
            f" FROM userlog.streams WHERE {ERASED}) WHERE {LIVING}"
        ),
        "key is gone without an erasure",
    ),
    "an erasure undone from a backup": (
        (
            "UPDATE userlog.streams s SET data_key = k.data_key, key_id = k.key_id,"
            " erased_position = NULL, erased_at = NULL FROM public.kept k"
            " WHERE k.stream_id = s.stream_id AND s.partition = 1 AND s.erased_position IS NOT NULL"
        ),
        "it was undone",
    ),
    "a key put back beside the erasure": (
        (
            "UPDATE userlog.streams s SET data_key = k.data_key, key_id = k.key_id"
            " FROM public.kept k WHERE k.stream_id = s.stream_id AND s.partition = 1"
            " AND s.erased_position IS NOT NULL"
        ),
        "user who was erased, and has a key",
    ),
    "an erasure said to be elsewhere": (
        f"UPDATE userlog.streams SET erased_position = 2 WHERE {ERASED}",
        "key is gone without an erasure",
    ),
    "keys of two users swapped": (
        (
            "UPDATE userlog.streams s SET data_key = o.data_key FROM userlog.streams o"
            " WHERE s.partition = 1 AND o.partition = 1 AND s.data_key IS NOT NULL"
            " AND o.data_key IS NOT NULL AND s.stream_id <> o.stream_id"
        ),
        "does not open",
    ),
    "a head removed with its events": (
        (
            "DELETE FROM userlog.log_head WHERE partition = 1;"
            "DELETE FROM userlog.events WHERE partition = 1"
        ),
        "head 1:0 is missing",
    ),
    "a head removed, its events altered at will": (
        (
            "DELETE FROM userlog.log_head WHERE partition = 1;"
            "UPDATE userlog.events SET payload = '' WHERE partition = 1"
        ),
        "head 1:0 is missing",
    ),
    "every head and event removed": (
        "DELETE FROM userlog.log_head; DELETE FROM userlog.events",
        "head 0:0 is missing",
    ),
    "a head added": (
        "INSERT INTO userlog.log_head (partition) VALUES (7)",
        "partition that the log was not made with",
    ),
    "fewer partitions said": (
        "UPDATE userlog.meta SET partitions = 2;DELETE FROM userlog.log_head WHERE partition = 2",
        "whose names",
    ),
    "an event's kind changed": (
        "UPDATE userlog.events SET kind = 3 WHERE partition = 1 AND position = 2",
        "event 1:2 was altered",
    ),
    "an event's time changed to one that no calendar has": (
        (
            "UPDATE userlog.events SET occurred_at = '4713-01-01 BC', recorded_at = 'infinity'"
            " WHERE partition = 1 AND position = 2"
        ),
        "event 1:2 was altered",
    ),
    "the same in the audit": (
        "UPDATE userlog.audit SET recorded_at = '4713-01-01 BC' WHERE partition = 1",
        "audit row 1:1 was altered",
    ),
    "an event put before the first": (
        (
            "INSERT INTO userlog.events SELECT partition, kind, 0, stream_id, occurred_at,"
            " recorded_at, substring(sha256(identity) FROM 1 FOR 16), digest, leaf, payload, chain"
            " FROM userlog.events WHERE partition = 1 AND position = 1"
        ),
        "event 1:0 lies beyond",
    ),
    "a row of the audit put before the first": (
        (
            "INSERT INTO userlog.audit SELECT partition, 0, recorded_at, stream_id, NULL, '', chain"
            " FROM userlog.audit WHERE partition = 1 AND number = 1"
        ),
        "audit row 1:0 lies beyond",
    ),
    "an event's time changed": (
        "UPDATE userlog.events SET occurred_at = 'epoch' WHERE partition = 1 AND position = 2",
        "event 1:2 was altered",
    ),
    "an event given to another user": (
        (
            "UPDATE userlog.events SET stream_id = (SELECT stream_id FROM userlog.events WHERE"
            " partition = 1 AND position = 3) WHERE partition = 1 AND position = 2"
        ),
        "event 1:2 was altered",
    ),
    "an event removed": (
        "DELETE FROM userlog.events WHERE partition = 1 AND position = 2",
        "event 1:2 is missing",
    ),
    "the log emptied": (
        "DELETE FROM userlog.events WHERE partition = 1;"
        "DELETE FROM userlog.streams WHERE partition = 1;"
        "UPDATE userlog.log_head SET position = 0, chain = decode(repeat('00', 32), 'hex'),"
        " recorded_at = 'epoch' WHERE partition = 1;" + NO_CHECKPOINTS,
        "and the log ends at 1:0",
    ),
    "the end cut off behind what was signed": (
        (
            "DELETE FROM userlog.events WHERE partition = 1 AND position ="
            " (SELECT position FROM userlog.log_head WHERE partition = 1);"
            "UPDATE userlog.log_head h SET position = e.position, chain = e.chain,"
            " recorded_at = e.recorded_at FROM userlog.events e WHERE h.partition = 1 AND"
            " e.partition = 1 AND e.position = h.position - 1"
        ),
        "of a read model lies beyond the head",
    ),
    "an event dated earlier and all chained anew": (
        EARLIER + ";" + RECHAIN,
        "has another hash than was signed",
    ),
    "a row of the audit removed": (
        "DELETE FROM userlog.audit WHERE partition = 1",
        "does not hold for the audit",
    ),
    "the audit removed with its head, as if it had begun later": (
        NO_AUDIT,
        "does not hold for the audit",
    ),
    "an event copied to the end, and dated otherwise": (COPY, "is a copy of an event before it"),
    "a user erased by hand": (ERASE.format("''", ""), "is not what userlog wrote"),
    "the same, with what the audit has of another act": (
        ERASE.format(
            "(SELECT sealed FROM userlog.audit WHERE stream_id = s.stream_id)",
            "AND s.stream_id IN (SELECT stream_id FROM userlog.audit WHERE position IS NULL)",
        ),
        "is not what userlog wrote",
    ),
    "the same, and the audit said to begin behind it": (
        ERASE.format("''", "") + ";DELETE FROM userlog.audit WHERE partition = 1 AND number > 2;"
        "UPDATE userlog.audit_head h SET number = 2, chain = a.chain, since = l.position"
        " FROM userlog.audit a, userlog.log_head l WHERE h.partition = 1 AND l.partition = 1"
        " AND a.partition = 1 AND a.number = 2",
        "is where the audit is said to begin",
    ),
    "a row of the audit copied": (
        (
            "SELECT userlog.audit(1, stream_id, NULL, sealed) FROM userlog.audit"
            " WHERE partition = 1 AND position IS NULL"
        ),
        "is a copy of another row",
    ),
    "events put into a partition that there is not": (
        (
            "INSERT INTO userlog.events SELECT 7, kind, position, stream_id, occurred_at,"
            " recorded_at, identity, digest, leaf, payload, chain FROM userlog.events"
            " WHERE partition = 1"
        ),
        "partition that the log was not made with",
    ),
    "a signed head dated later, so that none follows": (
        "UPDATE userlog.signed_heads SET signed_at = '2999-01-01'",
        "is forged",
    ),
    "a signed head altered": (
        "UPDATE userlog.signed_heads SET note = replace(note, 'partitions 3', 'partitions 4')",
        "is forged",
    ),
    "a signed head moved": (
        "UPDATE userlog.signed_heads SET position = position - 1",
        "is forged",
    ),
    "a signed head made up": (
        (
            "INSERT INTO userlog.signed_heads SELECT partition, 1, 0, now(), 'made up'"
            " FROM userlog.log_head"
        ),
        "is forged",
    ),
    "the signing key replaced": (
        (
            "UPDATE userlog.keys SET wrapped ="
            " (SELECT wrapped FROM userlog.keys WHERE name = 'audit') WHERE name = 'signing'"
        ),
        "can't be judged",
    ),
    "the signing key removed": (
        "DELETE FROM userlog.keys WHERE name = 'signing'",
        "has no key that did it",
    ),
    "another identity": (
        "UPDATE userlog.meta SET log_id = gen_random_uuid()",
        "is forged",
    ),
    "a checkpoint moved beyond the head": (
        "UPDATE userlog.checkpoints SET position = 999 WHERE partition = 1",
        "checkpoint 1:999 of a read model lies beyond the head",
    ),
    "an erasure made without userlog": (
        f"UPDATE userlog.streams SET data_key = NULL, erased_at = now() WHERE {LIVING}",
        "key is gone without an erasure",
    ),
}
# Before what was signed, and behind the erasure.
CUT = "(SELECT position - 2 FROM userlog.signed_heads WHERE partition = 1)"
# What verify can't see alone, as it leaves nothing behind that does not fit.
WITH_A_SIGNED_HEAD: dict[str, tuple[str, str]] = {
    "all chained anew, signed heads removed": (
        EARLIER + ";" + RECHAIN + ";" + NO_SIGNED,
        "has another hash than was signed",
    ),
    "cut off, signed heads removed": (
        f"DELETE FROM userlog.events WHERE partition = 1 AND position > {CUT};"
        "UPDATE userlog.log_head h SET position = e.position, chain = e.chain,"
        " recorded_at = e.recorded_at FROM userlog.events e WHERE h.partition = 1 AND"
        f" e.partition = 1 AND e.position = {CUT};" + NO_CHECKPOINTS + ";" + NO_SIGNED,
        "was signed, and the log ends at 1:",
    ),
    "the audit cut off, signed heads removed": (
        NO_AUDIT + ";" + NO_SIGNED,
        "does not hold for the audit",
    ),
    "signed heads and their key removed, another identity": (
        NO_SIGNED + ";DELETE FROM userlog.keys WHERE name = 'signing';"
        "UPDATE userlog.meta SET log_id = gen_random_uuid()",
        "is of the log",
    ),
}


async def test_left_alone(stack: Stack) -> None:
    """Nothing is found, also with signed heads and notes."""
    signed = await filled(stack)
    notes = [Note(head.position, head.chain) for head in await stack.log.heads()]
    assert await findings(stack, *signed, notes=notes) == []


async def test_signed_meanwhile(stack: Stack) -> None:
    """A head that moves and is signed while the log is verified is no finding."""
    await filled(stack)

    async def signing(parts: Any, counted: Any) -> list[Any]:
        for n in range(USERS):
            await stack.ingest.deliver(delivery(f"u{n}", "update", 9))
        await stack.log.erase(one_of(stack, 1, 1), BY)
        await signed_heads.sign(stack.log, 1, AT_ONCE)
        return [found for part in parts if (found := await verify_part(stack.log, part, counted))]

    assert await verify(stack.log, progress=lambda _done, _all: None, run=signing) == []


@pytest.mark.parametrize("what", TAMPERING)
async def test_found_alone(stack: Stack, what: str) -> None:
    """Without anything that was kept elsewhere."""
    await filled(stack)
    statements, said = TAMPERING[what]
    await tamper(stack, statements)
    if "UPDATE userlog.meta" in statements:
        row = await stack.admin.fetchrow("SELECT partitions, log_id FROM userlog.meta")
        assert row
        stack.log.partitions, stack.log.log_id = row
    found = await findings(stack)
    assert any(said in one for one in found), found


@pytest.mark.parametrize("what", WITH_A_SIGNED_HEAD)
async def test_found_with_a_signed_head(stack: Stack, what: str) -> None:
    """Not alone, but with a head that was signed before and kept elsewhere."""
    signed = await filled(stack)
    statements, said = WITH_A_SIGNED_HEAD[what]
    await tamper(stack, statements)
    log_id = await stack.admin.fetchval("SELECT log_id FROM userlog.meta")
    stack.log.log_id = log_id
    assert await findings(stack) == [], "nothing is left that does not fit"
    found = await findings(stack, *signed)
    assert any(said in one for one in found), found


async def test_forged_by_another_key(stack: Stack) -> None:
    """A head that somebody else signed, for this log, is refused by the public key alone."""
    (head, *_) = await filled(stack)
    forger = signed_heads.SigningKey(bytes(32), stack.log.log_id)
    key = (await signed_heads.signing_key(stack.log)).public
    with pytest.raises(signed_heads.ForgedError, match="no good signature"):
        key.check(forger.sign(head))
    assert forger.public.check(forger.sign(head)) == head
    (stored, *_) = await signed_heads.newest(stack.log)
    assert PublicKey.parse(str(key)).check(stored.note) == head


@pytest.mark.parametrize("n", range(6))
async def test_every_line_is_signed(stack: Stack, n: int) -> None:
    """Whichever line of a note is changed, it has no good signature any more."""
    await filled(stack)
    (stored, *_) = await signed_heads.newest(stack.log)
    key = (await signed_heads.signing_key(stack.log)).public
    lines = stored.note.split("\n")
    lines[n] = lines[n].translate(str.maketrans("0123456789abcXYZ", "1234567890bcaYZX"))
    with pytest.raises(signed_heads.ForgedError):
        key.check("\n".join(lines))
