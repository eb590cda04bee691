"""Databases of a test's own on a server."""

import contextlib

import psycopg


def on_database(url, name):
    """The same server's URL for another database."""
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    authority = place.partition("/")[0]
    return f"{scheme}://{authority}/{name}{mark}{query}"


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
