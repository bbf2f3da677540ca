"""Signed heads as text: what is taken for a file of them, and what for a signature."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

import pytest

from eventstore import signed_heads
from eventstore.events import Position
from eventstore.signed_heads import ForgedError, PublicKey, SignedHead, SigningKey

LOG = uuid.UUID(int=5)
KEY = SigningKey(bytes(32), LOG)
HEAD = SignedHead(LOG, Position(1, 3), bytes(32), datetime(2026, 1, 1, tzinfo=UTC), 2, 0, bytes(32))
NOTE = KEY.sign(HEAD)
OTHER = "\u2014 witness.example/w AAAAAAAA\n"
# The example of c2sp.org/signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2"
    "ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (NOTE, 1),
        (NOTE.rstrip("\n"), 1),
        (NOTE * 3, 3),
        (f"\n{NOTE}\n\n{NOTE}\n", 2),
        (NOTE + OTHER, 1),
        (NOTE.replace("\n\n", f"\n\n{OTHER}") + NOTE, 2),
    ],
)
def test_taken(text: str, count: int) -> None:
    """One or many, with empty lines between them, and signatures of others."""
    notes = signed_heads.notes_in(text)
    assert [KEY.public.check(note) for note in notes] == [HEAD] * count


@pytest.mark.parametrize("text", ["", "\n\n", "x", "x\n\ny", NOTE[:90], NOTE + "x", NOTE + "x\n\n"])
def test_refused(text: str) -> None:
    """Anything else, also after a good one."""
    with pytest.raises(ForgedError, match="no file of signed heads"):
        signed_heads.notes_in(text)


@pytest.mark.parametrize("piece", ["x", "x\n", "x\n\n"])
def test_refused_at_once(piece: str) -> None:
    """A file of some megabytes takes a look at each line, and no more."""
    began = time.process_time()
    with pytest.raises(ForgedError):
        signed_heads.notes_in(piece * 1_000_000)
    assert time.process_time() - began < 10


def test_first_signature_counts() -> None:
    """A bad signature that says it is the key's spoils a note, as the syntax demands."""
    (good,) = (line for line in NOTE.split("\n") if line.startswith("\u2014"))
    bad = good[:-8] + "AAAAAAA="
    with pytest.raises(ForgedError, match="no good signature"):
        KEY.public.check(NOTE.replace(good, f"{bad}\n{good}"))


def test_syntax_is_that_of_signed_notes() -> None:
    """The example of the syntax has a good signature, and is no head; a changed one has none."""
    key = PublicKey.parse(EXAMPLE_KEY)
    assert str(key) == EXAMPLE_KEY
    with pytest.raises(ForgedError, match="is no signed head"):
        key.check(EXAMPLE)
    with pytest.raises(ForgedError, match="no good signature"):
        key.check(EXAMPLE.replace("message", "massage"))


@pytest.mark.parametrize("text", ["", "x", "a+12345678+A", "a+12345678+AQ==", "a+12345678+AAAA"])
def test_no_key(text: str) -> None:
    """One sentence for whatever is no key."""
    with pytest.raises(ValueError, match="no public key of"):
        PublicKey.parse(text)
