"""Where the newest signed heads are brought, whatever stands in the way for a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from api.config.settings import Settings
from api.server.head_signer import AHEAD, FILE, HeadSigner
from tests.support.deliveries import delivery
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Stack


def signer(stack: Stack, folder: Path, url: str | None = None) -> HeadSigner:
    """Make one that signs after each event."""
    settings = Settings(data_dir=str(folder), signed_head_events=1, signed_heads_url=url)
    return HeadSigner(stack.log, settings)


async def test_file_is_written_when_it_can_be(stack: Stack, tmp_path: Path) -> None:
    """Also if it could not be when the head was signed, and nothing is signed since."""
    await stack.ingest.deliver(delivery("u"))
    draft = tmp_path / f"{FILE}.new"
    (draft / "in the way").mkdir(parents=True)
    one = signer(stack, tmp_path)
    with pytest.raises(OSError, match="signed-heads"):
        await one.sign_due()
    (draft / "in the way").rmdir()
    draft.rmdir()
    await one.sign_due()
    assert "\n1\n" in (tmp_path / FILE).read_text()


async def test_file_is_written_after_a_restart(stack: Stack, tmp_path: Path) -> None:
    """What an earlier process has signed, in a new data directory."""
    await stack.ingest.deliver(delivery("u"))
    await signer(stack, tmp_path / "none").sign_due()
    await signer(stack, tmp_path).sign_due()
    assert "\n1\n" in (tmp_path / FILE).read_text()


async def test_two_at_once(
    stack: Stack, open_stack: Callable[[str], Awaitable[Stack]], tmp_path: Path
) -> None:
    """Neither spoils the file of the other, nor calls it set back."""
    both = [signer(one, tmp_path) for one in (stack, await open_stack(stack.url))]
    for one in both:
        one.start()
    with capture_logs() as logs:
        for n in range(20):
            await stack.ingest.deliver(delivery("u", "update", n))
            for one in both:
                await one.sign_due()

        async def newest() -> bool:
            for one in both:
                await one.sign_due()
            return "\n20\n" in (tmp_path / FILE).read_text()

        await until(newest)
    for one in both:
        await one.stop()
    assert {log["event"] for log in logs} == {"signed head"}
    assert not (tmp_path / AHEAD).exists()


async def test_set_back(stack: Stack, tmp_path: Path) -> None:
    """What the file alone knows of is kept beside it, and said."""
    one = signer(stack, tmp_path)
    for n in range(3):
        await stack.ingest.deliver(delivery("u", "update", n))
        await one.sign_due()
    lost = (tmp_path / FILE).read_text()
    await stack.admin.execute("DELETE FROM userlog.signed_heads WHERE position > 1")
    await stack.admin.execute("DELETE FROM userlog.events WHERE position > 1")
    await stack.admin.execute(
        "UPDATE userlog.log_head h SET position = 1, chain = e.chain FROM userlog.events e"
    )
    with capture_logs() as logs:
        await signer(stack, tmp_path).sign_due()
    (said,) = logs
    assert (said["log_level"], said["positions"], said["kept_in"]) == ("error", ["0:3"], AHEAD)
    assert (tmp_path / AHEAD).read_text() == lost
    assert "\n1\n" in (tmp_path / FILE).read_text()


async def test_redirected(stack: Stack, tmp_path: Path) -> None:
    """What is redirected was not taken: who is asked there would get no heads."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        raise web.HTTPFound("/elsewhere")

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(f"{request.method} elsewhere")
        return web.Response()

    app = web.Application()
    app.router.add_post("/", answer)
    app.router.add_get("/elsewhere", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one = signer(stack, tmp_path, f"http://me:secret@127.0.0.1:{runner.addresses[0][1]}/")
    await stack.ingest.deliver(delivery("u"))
    with capture_logs() as logs:
        one.start()

        async def refused() -> bool:
            return any(log["event"] == "signed heads not taken" for log in logs)

        await until(refused)
        await one.stop()
    await runner.cleanup()
    assert set(asked) == {"POST"}
    assert "answered with 302" in str(logs)
    assert "secret" not in str(logs)
