"""The versions of the pepper that a works has, on one database connection."""

from collections.abc import Sequence
from pathlib import Path

from psycopg import Connection

from tokenworks.kernel import Clock
from tokenworks.trust.hosts import HostSecrets
from tokenworks.trust.keys import store
from tokenworks.trust.keys.pepper import new_pepper, retire_pepper, use_pepper


class PepperVersions:
    """What `tokenworks pepper` asks for; the rules are those of `pepper.py`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def all(self) -> list[store.PepperRow]:
        """In the order of their numbers, retired ones too."""
        return store.peppers(self._connection)

    def make(self, secrets_dir: Path) -> int:
        """Make and announce the next version. Returns it. Raises `Invalid`, `Conflict`."""
        return new_pepper(self._connection, secrets_dir, self._clock.now())

    def use(self, version: int, hosts: Sequence[HostSecrets], *, force: bool) -> None:
        """Raises `Invalid`, `Conflict`."""
        use_pepper(self._connection, version, self._clock.now(), hosts, force=force)

    def retire(self, version: int, hosts: Sequence[HostSecrets]) -> None:
        """Raises `Invalid`, `Conflict`."""
        retire_pepper(self._connection, version, self._clock.now(), hosts)
