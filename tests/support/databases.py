"""Databases of a test's own on a server."""

import contextlib

import psycopg


def on_database(url, name):
    """The same server's URL for another database."""
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    authority = place.partition("/")[0]
    return f"{scheme}://{authority}/{name}{mark}{query}"


def as_role(url, role, password=None):
    """The same database's URL for another role."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    host, _, name = place.rpartition("@")[2].partition("/")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in {"user", "password"}]
    said = [f"user={role}"] + ([f"password={password}"] if password else [])
    return f"{scheme}://{host}/{name}?{'&'.join(kept + said)}"


@contextlib.contextmanager
def new_database(url, name, how=""):
    """Make a database, and drop it at the end whoever uses it. Yields its URL."""
    admin = on_database(url, "postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {how}")
    try:
        yield on_database(url, name)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def drop_role(url, role):
    """Of databases that are gone."""
    with psycopg.connect(on_database(url, "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {role}")
