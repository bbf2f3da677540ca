"""A history in sentences."""

from __future__ import annotations

import pytest

from api.cli import timeline
from projections.fold.history import Change
from projections.query.views import Entry, History

PHONE = {"phone": "5550001", "country_code": 91, "primary": True}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Change("first_name", None, "Asha"), "first name: Asha"),
        (Change("first_name", "Asha", ""), "first name changed from Asha to empty"),
        (Change("dob", "2000-01-01", None), "dob cleared, was 2000-01-01"),
        (Change("active", True, False), "active changed from yes to no"),
        (Change("__v", 1, 2), "v changed from 1 to 2"),
        (Change("meta", None, {"a": [1]}), 'meta: {"a":[1]}'),
        (Change("emails", None, {"email": "a@b.c"}, "a@b.c"), "e-mail a@b.c added"),
        (Change("phone_numbers", None, PHONE, "5550001"), "phone +91 5550001 (primary) added"),
        (Change("phone_numbers", PHONE, None, "5550001"), "phone +91 5550001 (primary) removed"),
        (
            Change(
                "emails",
                {"verified": False, "primary": True},
                {"verified": True, "primary": None},
                "x",
            ),
            "e-mail x: now verified, no longer primary",
        ),
        (
            Change("phone_numbers", {"country_code": 91}, {"country_code": None}, "1"),
            "phone 1: country code unknown, was 91",
        ),
        (Change("emails", [1], []), "emails changed from [1] to []"),
        (Change("emails", None, {"email": "[b]x"}, "[b]x"), "e-mail [b]x added"),
    ],
)
def test_sentences(change: Change, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each change is a sentence in plain words."""
    at = "2023-06-13T09:48:47.621Z"
    entry = Entry("0:1", "user.updated", at, at, late=False, summary=["x"], changes=[change])
    timeline.show(History([entry], None), "y")
    assert capsys.readouterr().out.splitlines()[-1] == f"    {sentence}"


def test_marks(capsys: pytest.CaptureFixture[str]) -> None:
    """What came late, and what was dated ahead, says so; a cut-off history says how to go on."""
    times = ("2023-06-13T09:48:47.621Z", "2023-06-13T10:00:00.000Z")
    entry = Entry(
        *("0:1", "user.updated", *times),
        late=True,
        summary=["nothing changed"],
        changes=[],
        stated_at="2099-01-01T00:00:00.000Z",
    )
    timeline.show(History([entry], "mark"), "y")
    assert capsys.readouterr().out.splitlines() == [
        "history of y, times in UTC",
        "",
        "2023-06-13 09:48:47.621  nothing changed  [0:1]",
        "    came late: recorded 2023-06-13 10:00:00.000, after events that follow it",
        "    the sender dated it 2099-01-01 00:00:00.000, so the time of recording counts",
        "",
        "more: --after mark",
    ]
