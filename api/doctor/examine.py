"""The examination: all that can be looked at, in an order in which one thing explains the next.

It makes nothing and changes nothing, but for starting the embedded database if none runs.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from api.config import settings as settings_module
from api.config.secret_files import obtain
from api.config.settings import Settings
from api.config.sources import PREFIX, SettingsError
from api.doctor import log_state, place, server
from api.doctor.finding import Finding, broken
from api.runtime import database_urls, require_data
from eventstore.errors import NotThereError, UnavailableError, explained
from eventstore.postgres import statements
from eventstore.postgres.embedded import EmbeddedPostgresError
from eventstore.postgres.pool import owner_connection, refuse_transaction_pooler
from projections.query.lag import lags

if TYPE_CHECKING:
    from api.config.secret_files import Secrets
    from eventstore.postgres.sessions import Connection

_SQL = statements.load("api.doctor")
_AWAY = "start it, or correct USERLOG_DATABASE_URL; nothing is taken until it answers"
_WAITS = "it answered at first, then no more: docs/operations.md, Who waits for whom"


class Examined(msgspec.Struct):
    """What was found, and what a bundle for support holds besides."""

    findings: list[Finding]
    details: dict[str, Any]


async def examine() -> Examined:
    """Look at everything; what can't be looked at is a finding too."""
    done = Examined([place.versions()], {})
    try:
        settings, origins = settings_module.load()
        require_data(settings)
        secrets = obtain(settings, create=False)
    except SettingsError as error:
        done.findings.append(broken("settings", str(error), "correct it: `userlog settings`"))
        return done
    except OSError as error:
        said = f"can't use {error.filename} ({error.strerror})"
        todo = "run it as the account of the service: docs/deploying.md; or see USERLOG_DATA_DIR"
        done.findings.append(broken("data directory", said, todo))
        return done
    except NotThereError as error:
        done.findings.append(broken("database", str(error), "run it where userlog is"))
        return done
    done.details["settings"] = {
        PREFIX + field.name.upper(): [
            settings_module.shown(settings, field.name),
            origins[field.name],
        ]
        for field in msgspec.structs.fields(Settings)
    }
    done.findings += place.secrets(settings, os.environ)
    if settings.database_url is None:
        done.findings.append(place.disk(settings))
    try:
        await _database(done, settings, secrets)
    except EmbeddedPostgresError as error:
        done.findings.append(broken("database", str(error), "docs/operations.md"))
    except UnavailableError as error:
        known = any(one.about == "database" for one in done.findings)
        done.findings.append(broken("database", str(error), _WAITS if known else _AWAY))
    except Exception as error:
        expected = explained(error)
        if expected is None:
            raise
        done.findings.append(broken("database", str(expected), _AWAY))
    return done


async def _database(done: Examined, settings: Settings, secrets: Secrets) -> None:
    async with database_urls(settings) as urls:
        url = urls.service or urls.owner
        bound_s = settings.database_timeout_s
        connecting = partial(owner_connection, url, bound_s, statement_s=bound_s)
        async with connecting() as connection:
            async with connecting() as other:
                await refuse_transaction_pooler(connection, other)
            done.findings += await server.server(connection, settings)
            found, can_go_on = await server.installed(connection, settings)
            done.findings += found
            await _details(done, connection)
            if not can_go_on:
                return
            done.findings.append(await server.keys(connection, secrets.master))
            done.findings += await log_state.look(connection, settings)
            done.findings += await server.sessions(connection)
            done.details["lags"] = await lags(connection)


async def _details(done: Examined, connection: Connection) -> None:
    """Read what helps support, of which nothing is about a person."""
    for name in ("changed_settings", "table_sizes"):
        rows = await connection.fetch(_SQL[name])
        done.details[name] = [dict(row) for row in rows]
