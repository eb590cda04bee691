"""The peppers: secrets under which keys, sessions and tokens are hashed. Each is a file of mode 0600 with a version in its name.

All hosts of an installation have the same peppers. The database has a fingerprint of each: a host with a different pepper is refused at
its start, before it makes keys that no other host can verify. A new pepper is announced first and copied to all hosts, which load it
while they serve and report it. Then the operator puts it into use. What was made under an earlier pepper stays valid as long as that
pepper exists.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from psycopg import Connection

from tokenworks.kernel import Conflict, Invalid, Unavailable
from tokenworks.trust.hosts import HostSecrets, refuse_where_missing
from tokenworks.trust.keys import store
from tokenworks.trust.model import key_mac
from tokenworks.trust.secret_files import PEPPER, make_secret, read_secret, read_versions, versions_of
from tokenworks.trust.vault.secrets import ensure_vault_secrets

PEPPER_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
VERSIONS_MAX: Final = 100


class Peppers(dict[int, bytes]):
    """The peppers of this process by version. `issuing`: the version under which new keys, sessions and tokens are made."""

    def __init__(self, peppers: Mapping[int, bytes]) -> None:
        super().__init__(peppers)
        self.issuing = max(peppers)
        self.lacking: tuple[int, ...] = ()
        """Versions that the installation uses and this process does not have."""
        self.flaws: dict[int, str] = {}
        """Version -> why its file could not be loaded, for example because it is still being copied."""

    def with_version(self, version: int, pepper: bytes) -> "Peppers":
        """These peppers and one more, which does not become the issuing one until the database says so."""
        extended = Peppers({**self, version: pepper})
        extended.issuing = self.issuing
        extended.lacking = tuple(lacking for lacking in self.lacking if lacking != version)
        return extended


def issuing(peppers: Mapping[int, bytes]) -> int:
    return peppers.issuing if isinstance(peppers, Peppers) else max(peppers)


def ensure_pepper(secrets_dir: Path) -> None:
    """Make pepper version 1 if there is no pepper yet, and the keys of the person vault."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ensure_vault_secrets(secrets_dir)
    if not has_pepper(secrets_dir):
        make_secret(secrets_dir / f"{PEPPER}1", PEPPER_BYTES)


def has_pepper(secrets_dir: Path) -> bool:
    return bool(versions_of(secrets_dir, PEPPER))


def load_peppers(secrets_dir: Path) -> Peppers:
    """Load all versions. The highest one issues until `choose_issuing` says otherwise.

    Files with other names are ignored. A file that is unreadable, incomplete, or readable by others is recorded in `flaws`;
    `check_peppers` refuses it if its version is in use. Raises `Unavailable` if no pepper could be loaded.
    """
    found, flaws = read_versions(secrets_dir, PEPPER, PEPPER_BYTES, "a pepper")
    if not found:
        none = f"no pepper in {secrets_dir}: run `tokenworks init`, or restore it from the backup"
        raise Unavailable(next(iter(flaws.values()), none))
    peppers = Peppers(found)
    peppers.flaws = flaws
    return peppers


def fingerprint(version: int, pepper: bytes) -> bytes:
    """A hash that tells one pepper from another and reveals nothing else about it."""
    return key_mac(pepper, f"tokenworks pepper {version}")[:FINGERPRINT_BYTES]


def check_peppers(connection: Connection, peppers: Peppers, secrets_dir: Path, now: datetime) -> None:
    """Compare this host's peppers with the fingerprints in the database, and choose the issuing version.

    The first host's peppers become those of the installation. After that only `new_pepper` announces a version: a file that was not
    announced is no pepper of the installation. A version that is announced and not yet in use may be missing. Raises `Unavailable`,
    whose text says what to do.
    """
    if not store.peppers(connection):
        for version, pepper in sorted(peppers.items()):
            used = now if version == max(peppers) else None
            store.add_pepper(connection, version, fingerprint(version, pepper), now, used)
    for row in store.peppers(connection):
        path = secrets_dir / f"{PEPPER}{row.version}"
        mine = peppers.get(row.version)
        if mine is None and row.retired_at is None and row.used_since is not None:
            raise Unavailable(
                peppers.flaws.get(row.version)
                or f"{path} is not here, and the works has it: keys, sessions and staff tokens were made with it. Copy it from a host "
                "that serves, or from the backup (or retire it: `tokenworks pepper retire`, where nothing needs it any more)"
            )
        if mine is not None and fingerprint(row.version, mine) != row.fingerprint:
            raise Unavailable(
                f"{path} is not the pepper of this works: its fingerprint is {fingerprint(row.version, mine).hex()[:12]}, and the "
                f"database has {row.fingerprint.hex()[:12]}. No key, session or token of the works would be known here. Copy "
                f"pepper-* from the secrets of a host that serves, or from the backup, in place of this one's"
            )
    choose_issuing(connection, peppers)


def choose_issuing(connection: Connection, peppers: Peppers) -> None:
    """Set the issuing version: the newest one that is in use by the database and that this process has. Also sets `lacking`."""
    used = [row for row in store.peppers(connection) if row.used_since]
    loaded = {
        row.version
        for row in used
        if row.version in peppers and fingerprint(row.version, peppers[row.version]) == row.fingerprint
    }
    if loaded:
        peppers.issuing = max(loaded)
    peppers.lacking = tuple(
        row.version for row in used if row.retired_at is None and row.version not in loaded
    )


def check_no_pepper_missing(peppers: Mapping[int, bytes]) -> None:
    """Raises `Unavailable` if this process lacks a pepper in use: a session or token that it does not find can still be valid."""
    if isinstance(peppers, Peppers) and peppers.lacking:
        raise Unavailable(
            f"this host lacks {PEPPER}{peppers.lacking[-1]} of the works, so it can't verify this credential: try again, another host can"
        )


def check_first_pepper(connection: Connection, secrets_dir: Path) -> None:
    """Raises `Unavailable` if the installation has peppers and this host has none: such a host must not make its own."""
    if store.peppers(connection) and not has_pepper(secrets_dir):
        raise Unavailable(
            f"the works has peppers already, and {secrets_dir} has none: copy pepper-* and person-* from the secrets of a "
            "host that serves, or from the backup, before this host is set up"
        )


def new_pepper(connection: Connection, secrets_dir: Path, now: datetime) -> int:
    """Make and announce the next version, and return it. It is in use only after `use_pepper`."""
    peppers = load_peppers(secrets_dir)
    version: int = max([*peppers, *peppers.flaws, *(row.version for row in store.peppers(connection))]) + 1
    if version > VERSIONS_MAX:
        raise Invalid(f"there are at most {VERSIONS_MAX} versions")
    path = secrets_dir / f"{PEPPER}{version}"
    make_secret(path, PEPPER_BYTES)
    made = read_secret(path, PEPPER_BYTES, "a pepper")
    store.add_pepper(connection, version, fingerprint(version, made), now, None)
    if not any(row[:2] == (version, fingerprint(version, made)) for row in store.peppers(connection)):
        path.unlink()
        raise Conflict(f"another host made pepper {version} at the same moment: copy that one, it is as good")
    store.peppers_changed(connection)
    return version


def use_pepper(
    connection: Connection,
    version: int,
    now: datetime,
    hosts: Sequence[HostSecrets] = (),
    *,
    force: bool = False,
) -> None:
    """Put a version into use: new keys, sessions and tokens are made under it, and no longer under a lower one.

    `hosts`: the hosts of the fleet, which must all have loaded it. `force`: ignore hosts that have not, because they are gone for good.
    Raises `Invalid`, `Conflict`.
    """
    rows = {row.version: row for row in store.peppers(connection)}
    if version not in rows or rows[version].retired_at is not None:
        raise Invalid(f"the works has no pepper {version}: `tokenworks pepper list` shows them")
    if any(row.used_since and number > version for number, row in rows.items()):
        raise Conflict("a later version is in use already")
    if not force:
        refuse_where_missing(hosts, f"{PEPPER}{version}", lambda host: version in host.peppers)
    store.set_pepper(connection, version, "used_since", now)
    store.peppers_changed(connection)


def retire_pepper(
    connection: Connection, version: int, now: datetime, hosts: Sequence[HostSecrets] = ()
) -> None:
    """Retire a version, so that hosts need not have it. Raises `Invalid`, and `Conflict` if a live key, session or token was made under
    it, or a host still makes keys under it.
    """
    rows = {row.version: row for row in store.peppers(connection)}
    if version not in rows:
        raise Invalid(f"the works has no pepper {version}: `tokenworks pepper list` shows them")
    if version == max((number for number, row in rows.items() if row.used_since), default=0):
        raise Conflict(f"pepper {version} is used for new keys")
    using = [host.host for host in hosts if host.issues_under == version]
    if using:
        raise Conflict(
            f"new keys are still made under pepper {version} on {', '.join(using)}: try again in a few seconds"
        )
    live = store.made_under(connection, version, now)
    if any(live.values()):
        left = ", ".join(f"{count} {what}" for what, count in live.items() if count)
        raise Conflict(f"made under pepper {version} and still good: {left}; replace them first")
    store.set_pepper(connection, version, "retired_at", now)
    store.peppers_changed(connection)
