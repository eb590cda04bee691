"""The vault's keys outside the database: files of the secrets directory, of mode 0600.

`person-wrap-<n>` wraps the key of every person. A new version is in use from `vault rewrap` on; an older version stays until all keys
are wrapped again. Phone numbers and names are hashed under `person-lookup`, so that they can be found. It has only one version, since
the hashes of all rows depend on it.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tokenworks.kernel import Unavailable
from tokenworks.trust.secret_files import LOOKUP, WRAP, make_secret, read_secret, read_versions, versions_of

VAULT_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class VaultSecrets:
    """The wrapping keys by version, and the lookup key. `repr` does not show them."""

    wrapping: dict[int, bytes]
    lookup: bytes
    # Version -> why the file of that wrapping key could not be loaded.
    flaws: dict[int, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The newest version of the wrapping key."""
        return max(self.wrapping)

    def with_version(self, version: int, key: bytes) -> "VaultSecrets":
        """These secrets and one more wrapping key."""
        return VaultSecrets({**self.wrapping, version: key}, self.lookup, self.flaws)

    @property
    def lookup_fingerprint(self) -> bytes:
        return _fingerprint(LOOKUP, self.lookup)

    def fingerprints(self) -> dict[str, bytes]:
        """The fingerprint of each secret by its file name. The database stores them, to refuse a host with other secrets."""
        named = {f"{WRAP}{version}": key for version, key in self.wrapping.items()} | {LOOKUP: self.lookup}
        return {name: _fingerprint(name, key) for name, key in named.items()}


def wrapping_fingerprint(version: int, key: bytes) -> bytes:
    """A hash that tells one wrapping key from another and reveals nothing else about it."""
    return _fingerprint(f"{WRAP}{version}", key)


def _fingerprint(name: str, key: bytes) -> bytes:
    return hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()


def ensure_vault_secrets(secrets_dir: Path) -> None:
    """Make version 1 of the wrapping key, and the lookup key, if they are missing."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not versions_of(secrets_dir, WRAP):
        make_secret(secrets_dir / f"{WRAP}1", VAULT_KEY_BYTES)
    make_secret(secrets_dir / LOOKUP, VAULT_KEY_BYTES)


def add_wrapping_key(secrets_dir: Path) -> int:
    """Make a new version of the wrapping key, and return it. Every host needs the file before the version is used."""
    load_vault_secrets(secrets_dir)
    version = max(versions_of(secrets_dir, WRAP)) + 1
    make_secret(secrets_dir / f"{WRAP}{version}", VAULT_KEY_BYTES)
    return version


def load_vault_secrets(secrets_dir: Path) -> VaultSecrets:
    """Load all wrapping keys and the lookup key.

    Files with other names are ignored. A wrapping key that is incomplete, or readable by others, is recorded in `flaws`. Raises
    `Unavailable` if there is no wrapping key or no lookup key.
    """
    wrapping, flaws = read_versions(secrets_dir, WRAP, VAULT_KEY_BYTES, "a key")
    if not wrapping:
        none = f"no {WRAP}1 in {secrets_dir}: run `tokenworks init`, or restore it from the backup of the secrets"
        raise Unavailable(next(iter(flaws.values()), none))
    return VaultSecrets(wrapping, read_secret(secrets_dir / LOOKUP, VAULT_KEY_BYTES, "a key"), flaws)
