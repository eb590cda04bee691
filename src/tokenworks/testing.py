"""What checks from outside stand on: a real PostgreSQL, the schema, and the services of all rooms with a clock that they move.

    with embedded(folder) as url:
        migrate(url)
        with works(url, ManualClock(start)) as services:
            services.subscriptions.register("+8613800000000", "a subscriber")

Not for a server: roles, secrets and durability are those of a throw-away database.
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

# What is written survives no power cut, which nobody waits for.
FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextlib.contextmanager
def embedded(folder: Path | str) -> Iterator[str]:
    """An embedded PostgreSQL whose data is in `folder`, up during the block and deleted after it.

    Yields the URL of its owner, who may make other databases. Raises `Unavailable` if the server does not come up.
    """
    server = Embedded(Path(folder), FAST)
    try:
        with server.use():
            yield server.owner_url
    finally:
        server.destroy()


def migrate(url: str) -> None:
    """Bring a database to this release's schema and put the seed catalogue on sale; doing it twice changes nothing.

    `url` is the owner's. Raises what `tokenworks init` raises.
    """
    schema.migrate(url)
    with works(url) as services:
        services.offerings.load(seed_catalogue())


@contextlib.contextmanager
def works(url: str, clock: Clock | None = None, settings: Settings | None = None) -> Iterator[AppServices]:
    """The services of all rooms on one connection, closed after the block.

    `clock` is the system's if None. `settings` is by default that of a dev environment with secrets of this process's own, so
    keys and personal texts that one block wrote are read by the next.
    """
    with contextlib.closing(connect(url)) as connection:
        yield make_works(settings or _settings(), connection, clock)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="tokenworks-testing-")


@cache
def _settings() -> Settings:
    settings = load_settings({"data_dir": _folder().name}).settings
    ensure_pepper(settings.secrets)
    return settings
