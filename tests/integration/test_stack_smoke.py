"""The samples through the whole stack."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from projections.projector import catch_up

if TYPE_CHECKING:
    from tests.conftest import Stack


async def test_samples(stack: Stack) -> None:
    """The documented samples end with a deleted user."""
    for sample in sorted(resources.files("api").joinpath("samples").iterdir(), key=lambda s: s.name):
        await stack.ingest.deliver(sample.read_bytes())
    await catch_up(stack.log, 10)
    stream = stack.log.stream("000000000000000000000001", "6487fc9f66a6031a8b68f523")
    user = await stack.read_model.user(stream)
    assert user
    assert user.lifecycle == "deleted"
