"""Settings: origins, conversions, and errors that say what to do."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from api.config import sources
from api.config.secret_values import key_bytes, secrets_of
from api.config.settings import Settings, about, load, shown, traces_wanted
from api.config.sources import PREFIX, SECRETS, SettingsError, readable_by_others
from eventstore.postgres.url import EXAMPLE
from tests.support.parameters import short
from tests.support.processes import command_line

if TYPE_CHECKING:
    from pathlib import Path

KEY = base64.b64encode(bytes(range(32))).decode()
FIELDS = msgspec.structs.fields(Settings)


def test_defaults() -> None:
    """With nothing set everything has a default, on loopback and without a secret."""
    settings, origins = load({})
    assert settings == Settings()
    assert settings.on_loopback
    assert origins == {field.name: "default" for field in FIELDS}
    assert load({"USERLOG_PORT": "", "PORT": "1", "userlog_port": "1"})[0] == settings


def test_origins(tmp_path: Path) -> None:
    """An option overrules the environment, which overrules a file, which overrules the default."""
    file = tmp_path / "token"
    file.write_text("\n a-token-from-a-file \n")
    environ = {"USERLOG_PORT": "1", "USERLOG_HOST": "h", "USERLOG_API_TOKEN_FILE": str(file)}
    settings, origins = load(environ, port=2, data_dir=None)
    assert (settings.port, settings.host, settings.api_token) == (2, "h", "a-token-from-a-file")
    assert settings.data_dir == Settings().data_dir
    names = ("port", "host", "api_token", "data_dir")
    assert [origins[name] for name in names] == ["option", "environment", "file", "default"]
    environ["USERLOG_API_TOKEN"] = "a-token-set-directly"
    settings, origins = load(environ)
    assert (settings.api_token, origins["api_token"]) == ("a-token-set-directly", "environment")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_examples_are_good_values(field: msgspec.structs.FieldInfo) -> None:
    """Every setting has a meaning, and an example that can be copied."""
    meaning, example = about(field)
    assert meaning
    value = KEY if field.name.endswith("master_key") else example
    needed = {"USERLOG_DATABASE_URL": EXAMPLE} if field.name == "owner_database_url" else {}
    settings, origins = load({**needed, PREFIX + field.name.upper(): value})
    assert str(getattr(settings, field.name)) == str(
        msgspec.convert(value, field.type, strict=False)
    )
    assert origins[field.name] == "environment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PORT", "80.5"), ("PORT", "http"), ("PORT", "-1"), ("PORT", "65536")),
        *(("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml")),
        *(("PROJECTOR_POLL_S", "0"), ("PROJECTOR_POLL_S", "nan"), ("PROJECTOR_POLL_S", "inf")),
        *(
            ("DATABASE_TIMEOUT_S", "10s"),
            ("DATABASE_TIMEOUT_S", "100000"),
            ("WAIT_TIMEOUT_S", "-1"),
        ),
        *(("POOL_CONNECTIONS_MAX", "1"), ("PAGE_ROWS_MAX", "0"), ("BODY_BYTES_MAX", "1MB")),
        *(("QUEUE_ROWS_MAX", "-5"), ("BATCH_ROWS_MAX", "x"), ("BATCH_BYTES_MAX", "0.5")),
    ],
    ids=short,
)
def test_a_wrong_value_is_explained(name: str, value: str) -> None:
    """A wrong value is one line with the setting, the problem and an example that works."""
    with pytest.raises(SettingsError) as raised:
        load({PREFIX + name: value})
    told = str(raised.value)
    assert told.startswith(f"USERLOG_{name}: ")
    assert "\n" not in told
    variable, _, example = told.rpartition("; example: ")[2].partition("=")
    assert getattr(load({variable: example})[0], name.lower()) is not None


def test_a_wrong_option_is_explained_too() -> None:
    """An option is checked like the environment."""
    with pytest.raises(SettingsError, match=r"^USERLOG_PORT: .*example: USERLOG_PORT=8080$"):
        load({}, port=70000)


@pytest.mark.parametrize("value", [",", " ", " , ,"])
def test_webhook_secrets_without_one(value: str) -> None:
    """A list of secrets without a secret is refused."""
    with pytest.raises(SettingsError, match=r"^USERLOG_WEBHOOK_SECRETS is empty; make"):
        load({"USERLOG_WEBHOOK_SECRETS": value})


@pytest.mark.parametrize(
    "value", ["short", KEY[:-4], KEY + "AAAA", KEY[:-1] + "!", "ключ", "A" * 44]
)
def test_a_wrong_master_key(value: str) -> None:
    """A master key of another form is refused, unquoted, with a command that makes one."""
    with pytest.raises(
        SettingsError, match=r"^USERLOG_MASTER_KEY is not .*32 bytes; make one"
    ) as e:
        load({"USERLOG_MASTER_KEY": value})
    assert value not in str(e.value)


def test_a_master_key() -> None:
    """A master key is 32 bytes in base64."""
    assert key_bytes(KEY, "the key") == bytes(range(32))


@pytest.mark.parametrize("value", ["x", "fifteen-letters", "abcd" * 16])
def test_a_secret_that_can_be_guessed(value: str) -> None:
    """A short or monotonous secret is refused, unquoted, with a command that makes a good one."""
    for name, text in (("WEBHOOK_SECRETS", f"a-secret-that-is-good,{value}"), ("API_TOKEN", value)):
        with pytest.raises(SettingsError, match=f"^USERLOG_{name}: .*; make one with: ") as raised:
            load({f"USERLOG_{name}": text})
        assert value == "x" or value not in str(raised.value)
        assert "is-good" not in str(raised.value)
    assert load({"USERLOG_API_TOKEN": "sixteen-letters!", "USERLOG_WEBHOOK_SECRETS": "abcde" * 4})


def test_a_master_key_that_can_be_guessed() -> None:
    """It is refused, but not as the former one: it could not be replaced then."""
    weak = base64.b64encode((b"1234567" * 5)[:32]).decode()
    with pytest.raises(SettingsError, match=r"^USERLOG_MASTER_KEY has .*; make one with: ") as e:
        load({"USERLOG_MASTER_KEY": weak})
    assert weak not in str(e.value)
    load({"USERLOG_MASTER_KEY": KEY, "USERLOG_PREVIOUS_MASTER_KEY": weak})


@pytest.mark.parametrize("name", ["DATABASE_URL", *(name.upper() for name in SECRETS)])
@pytest.mark.parametrize(
    "content", [None, b"", b" \n", b"\xff"], ids=["gone", "empty", "blank", "bad"]
)
def test_a_wrong_secret_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A file that is not there, is empty or no text is refused with setting and example."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    environ = {f"USERLOG_{name}_FILE": str(file)}
    if name == "PREVIOUS_MASTER_KEY" and content is not None and not content.strip():
        assert load(environ)[0].previous_master_key is None, "it is there before a rotation too"
        return
    with pytest.raises(
        SettingsError, match=f"^USERLOG_{name}_FILE .*; example: USERLOG_{name}_FILE="
    ):
        load(environ)


@pytest.mark.parametrize(
    ("mode", "readable", "refused"),
    [
        *((0o600, False, False), (0o660, False, False), (0o444, True, False)),
        *((0o602, False, True), (0o666, False, True)),
    ],
)
def test_modes_of_secret_files(tmp_path: Path, mode: int, readable: bool, refused: bool) -> None:
    """A secret that others can write is refused; one that they can read is named."""
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    link = tmp_path / "link"  # as orchestrators mount them
    link.symlink_to(file)
    environ = {"USERLOG_MASTER_KEY_FILE": str(link)}
    if refused:
        with pytest.raises(SettingsError, match=f"^USERLOG_MASTER_KEY_FILE .*chmod o-rwx {link}$"):
            load(environ)
        return
    assert load(environ)[0].master_key == KEY
    assert readable_by_others(environ) == (["USERLOG_MASTER_KEY_FILE"] if readable else [])
    assert readable_by_others({**environ, "USERLOG_MASTER_KEY": KEY}) == []


@pytest.mark.parametrize("name", ["master_key", "previous_master_key"])
def test_a_master_key_from_a_command(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A key store prints it; what the command says besides is seen, and is no part of it."""
    variable = f"USERLOG_{name.upper()}_COMMAND"
    environ = {**os.environ, variable: f"echo opened >&2; echo {KEY}"}
    settings, origins = load(environ)
    assert (getattr(settings, name), origins[name]) == (KEY, "command")
    assert capfd.readouterr().err == "opened\n"
    assert shown(settings, name) == "set, hidden"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("exit 3", "ended with exit code 3"),
        ("true", "printed nothing"),
        ("printf '\\377'", "printed what is no text"),
        ("nothing-of-that-name", "ended with exit code 127"),
        ("yes", "printed more than a key"),
    ],
)
def test_a_wrong_command(command: str, problem: str) -> None:
    """It is named with its problem, and nothing that it printed."""
    with pytest.raises(SettingsError, match=f"^USERLOG_MASTER_KEY_COMMAND {problem}; example: "):
        load({**os.environ, "USERLOG_MASTER_KEY_COMMAND": command})


def test_a_command_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended with all that it has started."""
    monkeypatch.setattr(sources, "_COMMAND_S", 0.2)
    pid = tmp_path / "pid"
    command = f"sleep 600 & echo $! > {pid}; sleep 600"
    with pytest.raises(SettingsError, match=r"^USERLOG_MASTER_KEY_COMMAND took longer than"):
        load({**os.environ, "USERLOG_MASTER_KEY_COMMAND": command})
    while command_line(int(pid.read_text())):
        pass


def test_a_command_that_can_not_be_started() -> None:
    """That is a wrong setting too, so that SIGHUP changes nothing then."""
    huge = "#" * 3_000_000
    with pytest.raises(SettingsError, match=r"^USERLOG_MASTER_KEY_COMMAND can't be started"):
        load({**os.environ, "USERLOG_MASTER_KEY_COMMAND": huge})


def test_a_file_without_an_end() -> None:
    """No more of a file is read than a secret can have."""
    with pytest.raises(SettingsError, match=r"^USERLOG_API_TOKEN_FILE names a file that is too"):
        load({"USERLOG_API_TOKEN_FILE": "/dev/zero"})


def test_only_a_master_key_comes_from_a_command() -> None:
    """No other secret has a command, and what is set counts before it."""
    commands = {f"USERLOG_{name.upper()}_COMMAND": "exit 3" for name in SECRETS}
    settings, _ = load({**commands, "USERLOG_MASTER_KEY": KEY, "USERLOG_PREVIOUS_MASTER_KEY": KEY})
    assert settings.api_token is msgspec.UNSET


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    """A setting that is no secret has no `_FILE`."""
    (tmp_path / "port").write_text("1")
    assert load({"USERLOG_PORT_FILE": str(tmp_path / "port")})[0].port == Settings().port


def test_secrets_are_split() -> None:
    """Several secrets are separated by commas, spaces around them do not count."""
    assert secrets_of("new, old ,,") == ["new", "old"]


def test_secrets_are_hidden() -> None:
    """No secret, and no database's password, is shown to people."""
    secret: dict[str, Any] = dict.fromkeys(("webhook_secrets", "api_token"), "hush-hush-and-hush")
    secret["database_url"] = "postgresql://u:hush@h/d"
    settings, _ = load({}, **secret, master_key=KEY)
    assert {shown(settings, name) for name in (*secret, "master_key")} == {"set, hidden"}
    assert shown(Settings(), "api_token") == "generated"
    assert shown(Settings(), "database_url") == "embedded PostgreSQL"
    assert shown(Settings(), "port") == "8080"


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False)],
)
def test_loopback(host: str, local: bool) -> None:
    """Only the names of this machine for itself count as loopback."""
    assert load({}, host=host)[0].on_loopback is local


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_traces_are_asked_for(environ: dict[str, str], wanted: bool) -> None:
    """Traces are made when one of OpenTelemetry's own variables asks for them."""
    assert traces_wanted(environ) is wanted


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "https:// host", "http:host"])
def test_where_heads_are_posted(url: str) -> None:
    """Only an http or https URL is taken, and it is shown nowhere: it may have a password in it."""
    with pytest.raises(SettingsError, match="USERLOG_SIGNED_HEADS_URL is no http or https URL"):
        load({"USERLOG_SIGNED_HEADS_URL": url})
    good = "https://user:pass@host:8443/heads?x=1"
    settings, _ = load({"USERLOG_SIGNED_HEADS_URL": good})
    assert settings.signed_heads_url == good
    assert shown(settings, "signed_heads_url") == "set, hidden"
    assert shown(load({})[0], "signed_heads_url") == "not set"
