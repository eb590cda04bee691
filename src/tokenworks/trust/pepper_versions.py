"""The service behind `tokenworks pepper`: listing, making, using and retiring pepper versions."""

from collections.abc import Sequence
from pathlib import Path

from psycopg import Connection

from tokenworks.kernel import Clock
from tokenworks.trust.hosts import HostSecrets
from tokenworks.trust.keys import store
from tokenworks.trust.keys.pepper import new_pepper, retire_pepper, use_pepper


class PepperVersions:
    """The pepper versions, on one database connection. The rules are in `keys/pepper.py`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def all(self) -> list[store.PepperRow]:
        """All versions in ascending order, including retired ones."""
        return store.peppers(self._connection)

    def make(self, secrets_dir: Path) -> int:
        """Make and announce the next version, and return it. Raises `Invalid`, `Conflict`."""
        return new_pepper(self._connection, secrets_dir, self._clock.now())

    def use(self, version: int, hosts: Sequence[HostSecrets], *, force: bool) -> None:
        """Put a version into use, as `use_pepper` does. Raises `Invalid`, `Conflict`."""
        use_pepper(self._connection, version, self._clock.now(), hosts, force=force)

    def retire(self, version: int, hosts: Sequence[HostSecrets]) -> None:
        """Retire a version, as `retire_pepper` does. Raises `Invalid`, `Conflict`."""
        retire_pepper(self._connection, version, self._clock.now(), hosts)
