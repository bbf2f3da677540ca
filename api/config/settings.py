"""Settings: what they mean, and what is wrong with them.

Each setting is a field of `Settings`; its variable is the field's name in capitals after
`USERLOG_`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.config.secret_values import check_word, check_words, key_bytes
from api.config.sources import HEADS_URL, PREFIX, SECRETS, URLS, SettingsError, find
from eventstore.postgres import url

if TYPE_CHECKING:
    from collections.abc import Mapping

_HTTP = re.compile(r"https?://[^\s/?#]+\S*")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 40)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[int, Meta(ge=0, le=36_500)]


def _about(text: str, example: str) -> Meta:
    return Meta(description=text, examples=[example])


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    database_url: Annotated[
        str | None, _about("PostgreSQL 15 or newer; unset: embedded", "postgresql://u@host/db")
    ] = None
    owner_database_url: Annotated[
        str | None,
        _about(
            "the same database as the schema's owner; unset: as above", "postgresql://o@host/db"
        ),
    ] = None
    data_dir: Annotated[
        str, _about("embedded PostgreSQL and generated secrets", "/var/lib/userlog")
    ] = ".userlog"
    host: Annotated[str, _about("address to listen on", "127.0.0.1")] = "127.0.0.1"
    port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)], _about("port to listen on; 0: any free one", "8080")
    ] = 8080
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)], _about("processes that answer requests", "2")
    ] = 1
    webhook_secrets: Annotated[
        str | UnsetType,
        _about(
            "the platform's secrets, all accepted", "new-long-random-secret,old-long-random-secret"
        ),
    ] = UNSET
    master_key: Annotated[
        str | UnsetType, _about("wraps the users' keys; base64 of 32 bytes", "q83vEjRWeJ…=")
    ] = UNSET
    previous_master_key: Annotated[
        str | None, _about("opens what the master key does not, while rotating", "q83vEjRWeJ…=")
    ] = None
    api_token: Annotated[
        str | UnsetType,
        _about("a token for everything, beside `userlog token`", "long-random-token"),
    ] = UNSET
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("what to log", "info")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"], _about("auto: text in a terminal, else JSON", "json")
    ] = "auto"
    body_bytes_max: Annotated[Bytes, _about("largest delivery; above it: 413", "1048576")] = 1 << 20
    delivery_entries_max: Annotated[
        Count, _about("users in a delivery; above it: quarantine", "1000")
    ] = 1_000
    delivery_events_bytes_max: Annotated[
        Bytes, _about("bytes of its users, each with the envelope; above: quarantine", "16777216")
    ] = 16 << 20
    entry_values_max: Annotated[
        Count, _about("values in one user of a delivery; above it: quarantine", "20000")
    ] = 20_000
    extra_names_max: Annotated[
        Count, _about("unknown fields of one user of a delivery; above: quarantine", "500")
    ] = 500
    quarantine_bytes_max: Annotated[
        Bytes, _about("bytes in quarantine; beyond: 503 for what would go there", "10000000000")
    ] = 10_000_000_000
    quarantine_purge_after_days: Annotated[
        Days, _about("after which the quarantine loses what came no more; 0: never", "90")
    ] = 0
    erase_deleted_after_days: Annotated[
        Days, _about("after which a user who was deleted is erased for good; 0: never", "30")
    ] = 0
    arriving_max: Annotated[
        Count, _about("bodies still arriving, for each process; above it the slowest: 408", "1000")
    ] = 1_000
    arriving_bytes_max: Annotated[
        Bytes, _about("bytes of bodies still arriving; above it likewise", "67108864")
    ] = 64 << 20
    deliveries_max: Annotated[
        Count, _about("signed deliveries in flight, for each process; above it: 503", "500")
    ] = 500
    reads_max: Annotated[
        Count, _about("other requests in flight, for each process; above it: 503", "500")
    ] = 500
    waits_max: Annotated[
        Count, _about("requests that wait for events, for each process; above it: 503", "500")
    ] = 500
    waits_per_token_max: Annotated[
        Count, _about("requests of one token that wait for events; above it: 429", "100")
    ] = 100
    streams_max: Annotated[
        Count, _about("event streams, for each process; above it: 503", "500")
    ] = 500
    streams_per_token_max: Annotated[
        Count, _about("event streams of one token; above it: 429", "100")
    ] = 100
    queue_rows_max: Annotated[
        Count, _about("events that may wait to be written; above it: 503", "10000")
    ] = 10_000
    batch_rows_max: Annotated[Count, _about("events written at once", "1000")] = 1_000
    batch_bytes_max: Annotated[Bytes, _about("sealed bytes written at once", "4194304")] = 4 << 20
    projector_batch_rows_max: Annotated[Count, _about("events projected at once", "150")] = 150
    projector_poll_s: Annotated[Seconds, _about("how often the projector polls the log", "0.5")] = (
        0.5
    )
    scrub_interval_s: Annotated[
        Annotated[float, Meta(ge=0, le=86_400)],
        _about("how often some users are compared with the log; 0: never", "1"),
    ] = 1.0
    signed_head_events: Annotated[
        Count, _about("a head is signed after so many events", "100000")
    ] = 100_000
    signed_head_interval_s: Annotated[
        Seconds, _about("or after so many seconds, if it has moved", "3600")
    ] = 3_600.0
    signed_heads_url: Annotated[
        str | None, _about("where the newest signed heads are posted", "https://host/heads")
    ] = None
    page_rows_max: Annotated[Count, _about("largest page of an answer", "1000")] = 1_000
    page_bytes_max: Annotated[
        Count, _about("bytes of a page's contents, after which it ends", "4194304")
    ] = 4 << 20
    pool_connections_max: Annotated[
        Annotated[int, Meta(ge=2, le=10_000)],
        _about("connections to the database, for each process", "10"),
    ] = 10
    database_timeout_s: Annotated[Seconds, _about("for one statement or connecting", "10")] = 10.0
    takeover_timeout_s: Annotated[
        Seconds, _about("how long a frozen projector keeps others out of its partition", "30")
    ] = 30.0
    request_timeout_s: Annotated[
        Seconds, _about("for a request, from its head to its answer", "10")
    ] = 10.0
    idle_timeout_s: Annotated[Seconds, _about("for an idle connection", "75")] = 75.0
    connections_max: Annotated[
        Count,
        _about("client connections, for each process; above it one that is idle is closed", "4000"),
    ] = 4_000
    wait_timeout_s: Annotated[
        Seconds, _about("how long min_position waits for the read model", "5")
    ] = 5.0
    shutdown_timeout_s: Annotated[
        Seconds, _about("for requests in flight when the service stops", "10")
    ] = 10.0

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in _LOOPBACK


def load(environ: Mapping[str, str] | None = None, **given: Any) -> tuple[Settings, dict[str, str]]:  # noqa: ANN401 - as typed in Settings
    """Read the settings; `given` (not None) overrules the environment.

    Returns them with the origin of each: `default`, `environment`, `file` or `option`.
    SettingsError for the first one that is wrong.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in msgspec.structs.fields(Settings):
        origin, value = find(field.name, environ)
        if given.get(field.name) is not None:
            origin, value = "option", given[field.name]
        origins[field.name] = origin
        if value is not None:
            values[field.name] = _convert(field, value)
    settings = Settings(**values)
    _check_urls(settings)
    _check_heads_url(settings)
    _check_secrets(settings)
    return settings, origins


def traces_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Say whether a variable of OpenTelemetry asks for traces; the rest of them its SDK reads."""
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER")
    where = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in where))


def _convert(field: msgspec.structs.FieldInfo, value: object) -> Any:  # noqa: ANN401 - as typed
    try:
        return msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        example = f"{PREFIX}{field.name.upper()}={about(field)[1]}"
        problem = str(error)
        raise SettingsError(
            f"{PREFIX}{field.name.upper()}: {problem}; example: {example}"
        ) from None


def about(field: msgspec.structs.FieldInfo) -> tuple[str, str]:
    """Return a setting's meaning and an example."""
    meta = field.type.__metadata__[-1]
    return meta.description, meta.examples[0]


def _check_urls(settings: Settings) -> None:
    for name, given in urls_of(settings).items():
        if wrong := url.problems(given):
            raise SettingsError(f"{name}: {'; '.join(wrong)}; example: {url.EXAMPLE}")
    if settings.owner_database_url is not None and settings.database_url is None:
        raise SettingsError(
            f"{PREFIX}OWNER_DATABASE_URL is set, and {PREFIX}DATABASE_URL, with which the service"
            f" logs in, is not; example: {PREFIX}DATABASE_URL={url.EXAMPLE}"
        )


def _check_heads_url(settings: Settings) -> None:
    given = settings.signed_heads_url
    if given is not None and not _HTTP.fullmatch(given):
        raise SettingsError(
            f"{PREFIX}SIGNED_HEADS_URL is no http or https URL; example: https://host/heads"
        )


def urls_of(settings: Settings) -> dict[str, str]:
    """Return the database URLs that are set, by the names of their variables."""
    found = {PREFIX + name.upper(): getattr(settings, name) for name in URLS}
    return {name: given for name, given in found.items() if given is not None}


def _check_secrets(settings: Settings) -> None:
    if settings.webhook_secrets is not UNSET:
        check_words(settings.webhook_secrets, f"{PREFIX}WEBHOOK_SECRETS")
    if settings.api_token is not UNSET:
        check_word(settings.api_token, f"{PREFIX}API_TOKEN")
    if settings.master_key is not UNSET:
        key_bytes(settings.master_key, f"{PREFIX}MASTER_KEY")
    if settings.previous_master_key is not None:
        key_bytes(settings.previous_master_key, f"{PREFIX}PREVIOUS_MASTER_KEY", weak=True)


def shown(settings: Settings, name: str) -> str:
    """Return a setting's value for people; secrets are hidden."""
    value = getattr(settings, name)
    if name in SECRETS:
        return "generated" if value is UNSET else "not set" if value is None else "set, hidden"
    if name == HEADS_URL:
        return "not set" if value is None else "set, hidden"
    if name in URLS:
        absent = "embedded PostgreSQL" if name == "database_url" else "not set"
        return absent if value is None else "set, hidden"
    return str(value)
