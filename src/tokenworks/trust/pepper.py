"""The peppers that keys, sessions and tokens are hashed under: files of the secrets, mode 0600, with a version in their names.

All hosts of a works have the same ones. The database keeps a fingerprint of each: a host whose pepper is another one is refused
at its start, before it makes keys that no other host knows. A new one is announced first, copied to all hosts, and used from then
on when the operator says so; what was made under an earlier one stays good for as long as that one is there.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from tokenworks.kernel import Conflict, Invalid, Unavailable
from tokenworks.trust import store
from tokenworks.trust.model import key_mac
from tokenworks.trust.vault_secrets import ensure_vault_secrets, make_secret

PEPPER_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
VERSIONS_MAX: Final = 100


class Peppers(dict[int, bytes]):
    """By version. `issuing`: under which one new keys, sessions and tokens are made."""

    def __init__(self, peppers: Mapping[int, bytes]) -> None:
        super().__init__(peppers)
        self.issuing = max(peppers)


def issuing(peppers: Mapping[int, bytes]) -> int:
    return peppers.issuing if isinstance(peppers, Peppers) else max(peppers)


def ensure_pepper(secrets_dir: Path) -> None:
    """Make version 1 where there is none yet, and the keys of the person vault beside it."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ensure_vault_secrets(secrets_dir)
    if not has_pepper(secrets_dir):
        make_secret(secrets_dir / "pepper-1", PEPPER_BYTES)


def has_pepper(secrets_dir: Path) -> bool:
    return any(secrets_dir.glob("pepper-*"))


def load_peppers(secrets_dir: Path) -> Peppers:
    """All versions; the highest is used for new keys, until the database says another. Refuses a file that others may read."""
    peppers = {}
    for path in sorted(secrets_dir.glob("pepper-*")):
        number = path.name.removeprefix("pepper-")
        if not (number.isascii() and number.isdigit() and len(number) <= 3):
            raise Unavailable(f"{path} is no pepper: their names are pepper-1, pepper-2, …; put it elsewhere")
        if path.stat().st_mode & 0o077:
            raise Unavailable(f"{path} can be read by others: chmod 600 it, and think about new keys")
        pepper = path.read_bytes()
        if len(pepper) != PEPPER_BYTES:
            raise Unavailable(f"{path} is not a pepper of {PEPPER_BYTES} bytes: restore it from the backup")
        peppers[int(number)] = pepper
    if not peppers:
        raise Unavailable(f"no pepper in {secrets_dir}: run `tokenworks init`, or restore it from the backup")
    return Peppers(peppers)


def fingerprint(version: int, pepper: bytes) -> bytes:
    """Tells one pepper from another, and nothing else about it."""
    return key_mac(pepper, f"tokenworks pepper {version}")[:FINGERPRINT_BYTES]


def check_peppers(connection: store.Connection, peppers: Peppers, secrets_dir: Path, now: datetime) -> None:
    """Compare this host's peppers with those of the works, keep the fingerprints of new ones, and see which one is used.

    Raises `Unavailable`, with what to do.
    """
    first = not store.peppers(connection)
    for version, pepper in sorted(peppers.items()):
        known = {row.version for row in store.peppers(connection)}
        if version not in known:
            used = now if first and version == max(peppers) else None
            store.add_pepper(connection, version, fingerprint(version, pepper), now, used)
    rows = store.peppers(connection)
    for row in rows:
        path = secrets_dir / f"pepper-{row.version}"
        mine = peppers.get(row.version)
        if mine is None and row.retired_at is None:
            raise Unavailable(
                f"{path} is not here, and the works has it: keys, sessions and staff tokens were made with it. Copy it from a host "
                "that serves, or from the backup (or retire it: `tokenworks pepper retire`, where nothing needs it any more)"
            )
        if mine is not None and fingerprint(row.version, mine) != row.fingerprint:
            raise Unavailable(
                f"{path} is not the pepper of this works: its fingerprint is {fingerprint(row.version, mine).hex()[:12]}, and the "
                f"database has {row.fingerprint.hex()[:12]}. No key, session or token of the works would be known here. Copy "
                f"pepper-* from the secrets of a host that serves, or from the backup, in place of this one's"
            )
    settle_issuing(connection, peppers)


def settle_issuing(connection: store.Connection, peppers: Peppers) -> None:
    """Which version is used for what is new, as the database says it."""
    used = [row.version for row in store.peppers(connection) if row.used_since and row.version in peppers]
    if used:
        peppers.issuing = max(used)


def check_first_pepper(connection: store.Connection, secrets_dir: Path) -> None:
    """A host that has none makes none where the works has some. Raises `Unavailable`."""
    if store.peppers(connection) and not has_pepper(secrets_dir):
        raise Unavailable(
            f"the works has peppers already, and {secrets_dir} has none: copy pepper-* and person-* from the secrets of a "
            "host that serves, or from the backup, before this host is set up"
        )


def new_pepper(connection: store.Connection, secrets_dir: Path, now: datetime) -> int:
    """Make and announce the next version. It is used when `use_pepper` says so. Returns the version."""
    peppers = load_peppers(secrets_dir)
    version: int = max([*peppers, *(row.version for row in store.peppers(connection))]) + 1
    if version > VERSIONS_MAX:
        raise Invalid(f"there are at most {VERSIONS_MAX} versions")
    make_secret(secrets_dir / f"pepper-{version}", PEPPER_BYTES)
    check_peppers(connection, load_peppers(secrets_dir), secrets_dir, now)
    return version


def use_pepper(connection: store.Connection, version: int, now: datetime) -> None:
    """From now on what is new is made under this version, and no more under a lower one. Raises `Invalid`, `Conflict`."""
    rows = {row.version: row for row in store.peppers(connection)}
    if version not in rows or rows[version].retired_at is not None:
        raise Invalid(f"the works has no pepper {version}: `tokenworks pepper list` shows them")
    if any(row.used_since and number > version for number, row in rows.items()):
        raise Conflict("a later one is used already")
    store.set_pepper(connection, version, "used_since", now)


def retire_pepper(connection: store.Connection, version: int, now: datetime) -> None:
    """Hosts may be without it. Raises `Invalid`, and `Conflict` where something live was made under it."""
    rows = {row.version: row for row in store.peppers(connection)}
    if version not in rows:
        raise Invalid(f"the works has no pepper {version}: `tokenworks pepper list` shows them")
    if version == max((number for number, row in rows.items() if row.used_since), default=0):
        raise Conflict("it is the one that is used")
    live = store.made_under(connection, version, now)
    if any(live.values()):
        left = ", ".join(f"{count} {what}" for what, count in live.items() if count)
        raise Conflict(f"made under pepper {version} and still good: {left}; replace them first")
    store.set_pepper(connection, version, "retired_at", now)
