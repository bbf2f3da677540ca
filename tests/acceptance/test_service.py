"""The main job, as a newcomer meets it: real processes, a real socket, the embedded database."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.deliveries import APP, SAMPLE_USER, delivery
from tests.support.processes import SECRET, command_line
from tests.support.waiting import meanwhile, until

if TYPE_CHECKING:
    from tests.support.processes import Answer, Home, Service

USER_PATH = f"/v1/applications/{APP}/users/{SAMPLE_USER}"
VERBATIM = Path(__file__).parents[1] / "samples" / "delete-verbatim.json"
LAST = "min_position=0:3"


async def test_the_samples_become_a_deleted_user(own_home: Home) -> None:
    """First start, `userlog send`, every question that a newcomer asks, and nothing to worry about.

    So the embedded database does not let the service in as its owner either.
    """
    async with own_home.serving() as service:
        sent = await own_home.send(service)
        assert [one["answer"]["positions"] for one in sent] == [["0:1"], ["0:2"], ["0:3"]]
        user = await service.get(f"{USER_PATH}?{LAST}")
        assert (user.status, user.body["lifecycle"]) == (200, "deleted")
        history = await service.get(f"{USER_PATH}/history")
        kinds = [entry["event_type"] for entry in history.body["entries"]]
        assert kinds == ["user.created", "user.updated", "user.deleted"]
        before = await service.get(f"{USER_PATH}?valid_at=2023-06-13T09:48:46.621Z")
        assert before.status == 404

        again = await own_home.send(service)
        assert [one["answer"]["duplicates"] for one in again] == [1, 1, 1]
        assert (await service.get(USER_PATH)).body == user.body
        assert (await service.get(f"{USER_PATH}/history")).body == history.body

        shown = await own_home.run("user", APP, SAMPLE_USER)
        assert "deleted" in shown.out
        assert "salmansaudagar@gofynd.com (primary, verified)" in shown.out
        assert (await own_home.run("history", APP, SAMPLE_USER)).out.count("[0:") == 3
    assert own_home.warnings() == []


async def test_what_is_printed_first_keeps_no_secret(own_home: Home) -> None:
    """A journal keeps it: it names the files of the secrets, and not what is in them."""
    process = await own_home.start("serve", "--port", "0")
    assert process.stdout
    lines = [await process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGTERM)
    rest, _ = await process.communicate()
    printed = b"".join([*lines, rest]).decode()
    for name, secret in (("api-token", own_home.token), ("webhook-secret", own_home.secret)):
        assert f"in {own_home.folder / name}, made just now" in printed
        assert secret not in printed


async def test_a_secret_that_every_account_can_read(home: Home, tmp_path: Path) -> None:
    """It is taken, as orchestrators mount them so, with a warning that names the variable."""
    file = tmp_path / "secrets"
    file.write_text(SECRET)
    file.chmod(0o444)
    given = {"USERLOG_WEBHOOK_SECRETS": "", "USERLOG_WEBHOOK_SECRETS_FILE": str(file)}
    home = home.where(**given)
    async with home.serving() as service:
        assert await service.post(delivery(), SECRET) == 200
    assert "every account of this machine can read a file of secrets" in home.warnings()
    assert "USERLOG_WEBHOOK_SECRETS_FILE" in home.folder.with_suffix(".log").read_text()


async def test_the_verbatim_delete_sample_waits_in_quarantine(home: Home) -> None:
    """The documented delete sample is no JSON: it is kept, and shown with the error's place."""
    async with home.serving() as service:
        (sent,) = await home.send(service, str(VERBATIM))
        assert (sent["status"], sent["answer"]["quarantined"]) == (200, 1)
        (listed,) = await home.json("quarantine", "list")
        assert listed["reason"] == "not-json"
        assert "line 81, column 1" in listed["detail"]
        shown = await home.alone().json("quarantine", "show", listed["id"])
        assert shown["body"].encode() == VERBATIM.read_bytes()
        assert (await home.run("quarantine", "list")).code == 0


async def test_what_one_run_wrote_the_next_one_shows(made_home: Home) -> None:
    """Ctrl-C ends the service and leaves no process behind; the next start has all the data."""
    async with made_home.serving() as service:
        await made_home.send(service)
        postmaster = made_home.postmaster()
        assert await service.stop(signal.SIGINT) == 0
        assert not command_line(postmaster)
    async with made_home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body["lifecycle"] == "deleted"
        assert await service.stop(signal.SIGTERM) == 0


async def test_nothing_is_lost_when_the_service_is_killed(made_home: Home) -> None:
    """After SIGKILL of the service the next start goes on with all that was acknowledged."""
    async with made_home.serving() as service:
        await made_home.send(service)
        await service.stop(signal.SIGKILL)
    async with made_home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body["lifecycle"] == "deleted"
        postmaster = made_home.postmaster()
        assert await service.stop() == 0
        assert not command_line(postmaster)


async def test_nothing_is_lost_when_the_database_is_killed(made_home: Home) -> None:
    """After SIGKILL of PostgreSQL the next start recovers it with all that was acknowledged."""
    async with made_home.serving() as service:
        await made_home.send(service)
        os.kill(made_home.postmaster(), signal.SIGKILL)
        assert await service.stop() == 0
    async with made_home.serving() as service:
        assert (await service.get(f"{USER_PATH}?{LAST}")).body["lifecycle"] == "deleted"


async def test_a_database_that_dies_is_started_again(made_home: Home) -> None:
    """When PostgreSQL is killed under a running service, it comes back without a restart."""
    async with made_home.serving() as service:
        await made_home.send(service)
        killed = made_home.postmaster()
        os.kill(killed, signal.SIGKILL)

        async def answered_by_another() -> Answer | None:
            answer = await service.get(f"{USER_PATH}?{LAST}")
            assert answer.status in {200, 503}
            # Who dies may still answer.
            return answer if answer.status == 200 and made_home.postmaster() != killed else None

        answer = await until(answered_by_another)
        assert answer.body["lifecycle"] == "deleted"
        assert [one["answer"]["duplicates"] for one in await made_home.send(service)] == [1, 1, 1]


async def test_a_damaged_row_is_rebuilt_while_reads_go_on(home: Home) -> None:
    """`userlog rebuild` brings the right row back, and no read fails meanwhile."""
    async with home.serving() as service:
        await home.send(service)
        right = (await service.get(f"{USER_PATH}?{LAST}")).body
        async with home.database() as database:
            await database.execute("UPDATE userlog.users SET lifecycle = 2")
        assert (await service.get(USER_PATH)).body["lifecycle"] == "blocked"

        statuses: list[int] = []
        async with meanwhile(_read(service, statuses)):
            assert (await home.json("rebuild"))["generation"] == 2
        assert set(statuses) == {200}
        assert (await service.get(USER_PATH)).body == right


async def _read(service: Service, statuses: list[int]) -> None:
    while True:
        statuses.append((await service.get(USER_PATH)).status)


def _said(err: str) -> list[str]:
    """Return what was said, without asyncio's remarks in debug mode that a machine is slow."""
    return [line for line in err.splitlines() if '"logger": "asyncio"' not in line]


async def test_commands_fail_with_one_line(home: Home, own_home: Home) -> None:
    """What can be expected to go wrong is said in one line, with the documented exit code."""
    unknown = await home.run("user", APP, "nobody")
    assert (unknown.code, len(_said(unknown.err))) == (1, 1)
    refused = await own_home.run("serve", "--host", "0.0.0.0")  # noqa: S104 - it must be refused
    assert refused.code == 2
    assert "USERLOG_WEBHOOK_SECRETS" in refused.err
    assert len(_said(refused.err)) == 1
    nobody = await home.run("send", "--url", "http://127.0.0.1:9/webhooks/fynd")
    assert nobody.code == 1
    assert "no answer" in nobody.out


async def test_sent_again(home: Home) -> None:
    """Who sends the samples again reads of each that its event is known."""
    async with home.serving() as service:
        await home.send(service)
        again = await home.run("send", "--url", f"{service.base}/webhooks/fynd")
        assert again.code == 0
        assert again.out.count("1 duplicate ") == 3


async def test_tokens(home: Home) -> None:
    """A token that a command makes opens its application, until a command revokes it."""
    async with home.serving() as service:
        await home.send(service)
        given = ("--name", "crm", "--application", APP)
        token = (await home.json("token", "create", *given))["token"]
        path = f"{USER_PATH}?{LAST}"
        assert (await service.get(path, token)).status == 200
        assert (await service.get("/v1/status", token)).status == 403
        (listed,) = await home.alone().json("token", "list")
        assert (listed["name"], listed["applications"]) == ("crm", [APP])
        assert (await home.run("token", "revoke", listed["id"])).code == 0

        async def refused() -> bool:
            return (await service.get(path, token)).status != 200

        await until(refused)
        assert (await service.get(path, token)).status == 401
        assert "revoked" in (await home.run("token", "list")).out
        assert (await home.alone().run("token", "revoke", "none")).code == 1
