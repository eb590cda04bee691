"""A session of psql, PostgreSQL's own client, and the database's address as people see it."""

import os
import shutil
import subprocess
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from tokenworks.app.database.connections import database, embedded_of
from tokenworks.app.database.embedded import APP_ROLE
from tokenworks.app.settings import Settings
from tokenworks.kernel import Invalid, Unavailable

CONNECT_S: Final = "5"


def url_of(settings: Settings, *, owner: bool) -> str:
    """The URL of the role that serves, or of the owner. Raises `Invalid` where the owner's URL is unknown."""
    if settings.database_url:
        if owner and not settings.database_owner_url:
            raise Invalid("no owner's URL is known: set database_owner_url for this command")
        return str(settings.database_owner_url if owner else settings.database_url)
    embedded = embedded_of(settings)
    return embedded.owner_url if owner else embedded.url


def without_password(url: str) -> str:
    """The URL as people may read it."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(
        pair for pair in parts.query.split("&") if pair.partition("=")[0] not in {"password", "sslpassword"}
    )
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}{'?' if query else ''}{query}"


def run_psql(settings: Settings, *, owner: bool, statement: str | None) -> int:
    """Run psql. Returns its exit code. The embedded server runs meanwhile. Raises `Unavailable` where psql is not installed."""
    program = shutil.which("psql") if settings.database_url else None
    with database(settings):
        try:
            program = program or embedded_of(settings).program("psql")
        except Unavailable as error:
            raise Unavailable(f"there is no psql: {error}") from error
        arguments = ["-X", "-v", "ON_ERROR_STOP=1", *(("-c", statement) if statement else ())]
        done = subprocess.run(
            [program, *arguments], env=_environment(url_of(settings, owner=owner)), check=False
        )
    return done.returncode


def _environment(url: str) -> dict[str, str]:
    """The address in environment variables, so that the list of processes does not show a password."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    address = {
        "PGHOST": query.get("host") or parts.hostname or "",
        "PGPORT": query.get("port") or str(parts.port or ""),
        "PGUSER": query.get("user") or unquote(parts.username or "") or APP_ROLE,
        "PGPASSWORD": query.get("password") or unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/") or query.get("dbname", ""),
        "PGSSLMODE": query.get("sslmode", ""),
        "PGSSLROOTCERT": query.get("sslrootcert", ""),
        "PGCONNECT_TIMEOUT": CONNECT_S,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TOKENWORKS_"))}
    return kept | {name: value for name, value in address.items() if value}
