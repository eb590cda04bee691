"""For tests outside of this repository: a real PostgreSQL, the schema, and the services of all rooms with a clock that a test can move.

    with embedded(folder) as url:
        migrate(url)
        with works(url, ManualClock(start)) as services:
            services.subscriptions.register("+8613800000000", "a subscriber")

Not for a server: roles, secrets and durability are those of a temporary database.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tokenworks.app.bootstrap import AppServices, make_works
from tokenworks.app.database import schema
from tokenworks.app.database.connections import connect
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.settings import Settings, load_settings
from tokenworks.catalog import seed_catalogue
from tokenworks.kernel import Clock
from tokenworks.trust import ensure_pepper

# Writes are fast and do not survive a power cut.
FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextlib.contextmanager
def embedded(folder: Path | str) -> Iterator[str]:
    """Run an embedded PostgreSQL with its data in `folder` during the block, and delete it afterwards.

    Yields the URL of the owner's role, which may make other databases. Raises `Unavailable` if the server does not start.
    """
    server = Embedded(Path(folder), FAST)
    try:
        with server.use():
            yield server.owner_url
    finally:
        server.destroy()


def migrate(url: str) -> None:
    """Migrate a database to this release's schema and load the seed catalogue. A second call changes nothing.

    `url` is the owner's. Raises the errors of `tokenworks init`.
    """
    schema.migrate(url)
    with works(url) as services:
        services.offerings.load(seed_catalogue())


@contextlib.contextmanager
def works(url: str, clock: Clock | None = None, settings: Settings | None = None) -> Iterator[AppServices]:
    """The services of all rooms on one connection, which is closed after the block.

    Without `clock` the system's is used. Without `settings` those of a dev environment are used, with secrets of this process, so that a
    later block can read keys and personal texts that an earlier one wrote.
    """
    with contextlib.closing(connect(url)) as connection:
        yield make_works(settings or _settings(), connection, clock)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """The folder of this process's secrets, deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="tokenworks-testing-")


@cache
def _settings() -> Settings:
    settings = load_settings({"data_dir": _folder().name}).settings
    ensure_pepper(settings.secrets)
    return settings
