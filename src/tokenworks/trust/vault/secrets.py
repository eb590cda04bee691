"""The keys that personal texts depend on: files of the secrets directory, mode 0600, outside the database.

`person-wrap-<n>` wraps every person's own key; a new version is used from `vault rewrap` on, older ones are kept until all keys
are wrapped again. `person-lookup` is what phone numbers and names are hashed under so that they can be found; it has one version,
since the hashes of all rows depend on it.
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
    """Wrapping keys by version, and the lookup key. Never printed."""

    wrapping: dict[int, bytes]
    lookup: bytes
    # Why a file is not among the wrapping keys.
    flaws: dict[int, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The newest version."""
        return max(self.wrapping)

    def with_version(self, version: int, key: bytes) -> "VaultSecrets":
        """With one wrapping key more."""
        return VaultSecrets({**self.wrapping, version: key}, self.lookup, self.flaws)

    @property
    def lookup_fingerprint(self) -> bytes:
        return _fingerprint(LOOKUP, self.lookup)

    def fingerprints(self) -> dict[str, bytes]:
        """What the database keeps of each, so that a host with other secrets is refused before it writes anything."""
        named = {f"{WRAP}{version}": key for version, key in self.wrapping.items()} | {LOOKUP: self.lookup}
        return {name: _fingerprint(name, key) for name, key in named.items()}


def wrapping_fingerprint(version: int, key: bytes) -> bytes:
    """Tells one wrapping key from another, and nothing else about it."""
    return _fingerprint(f"{WRAP}{version}", key)


def _fingerprint(name: str, key: bytes) -> bytes:
    return hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()


def ensure_vault_secrets(secrets_dir: Path) -> None:
    """Make version 1 of the wrapping key and the lookup key where there are none yet."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not versions_of(secrets_dir, WRAP):
        make_secret(secrets_dir / f"{WRAP}1", VAULT_KEY_BYTES)
    make_secret(secrets_dir / LOOKUP, VAULT_KEY_BYTES)


def add_wrapping_key(secrets_dir: Path) -> int:
    """A new version of the wrapping key; every host needs the file before it is used. Returns the version."""
    load_vault_secrets(secrets_dir)
    version = max(versions_of(secrets_dir, WRAP)) + 1
    make_secret(secrets_dir / f"{WRAP}{version}", VAULT_KEY_BYTES)
    return version


def load_vault_secrets(secrets_dir: Path) -> VaultSecrets:
    """Files with other names are left alone, and so is a wrapping key that is not whole, or that others may read: who needs that
    version says why. Raises `Unavailable` where there is no wrapping key or no lookup key.
    """
    wrapping, flaws = read_versions(secrets_dir, WRAP, VAULT_KEY_BYTES, "a key")
    if not wrapping:
        none = f"no {WRAP}1 in {secrets_dir}: run `tokenworks init`, or restore it from the backup of the secrets"
        raise Unavailable(next(iter(flaws.values()), none))
    return VaultSecrets(wrapping, read_secret(secrets_dir / LOOKUP, VAULT_KEY_BYTES, "a key"), flaws)
