"""The keys that personal texts depend on: files of the secrets directory, mode 0600, outside the database.

`person-wrap-<n>` wraps every person's own key; a new version is used from `vault rewrap` on, older ones are kept until all keys
are wrapped again. `person-lookup` is what phone numbers and names are hashed under so that they can be found; it has one version,
since the hashes of all rows depend on it.
"""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenworks.kernel import Unavailable

VAULT_KEY_BYTES: Final = 32
_LOOKUP: Final = "person-lookup"
_WRAP: Final = "person-wrap-"


@dataclass(frozen=True, slots=True, repr=False)
class VaultSecrets:
    """Wrapping keys by version, and the lookup key. Never printed."""

    wrapping: dict[int, bytes]
    lookup: bytes

    @property
    def version(self) -> int:
        """The newest version."""
        return max(self.wrapping)

    @property
    def lookup_fingerprint(self) -> bytes:
        return _fingerprint(_LOOKUP, self.lookup)

    def fingerprints(self) -> dict[str, bytes]:
        """What the database keeps of each, so that a host with other secrets is refused before it writes anything."""
        named = {f"{_WRAP}{version}": key for version, key in self.wrapping.items()} | {_LOOKUP: self.lookup}
        return {name: _fingerprint(name, key) for name, key in named.items()}


def _fingerprint(name: str, key: bytes) -> bytes:
    return hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()


def ensure_vault_secrets(secrets_dir: Path) -> None:
    """Make version 1 of the wrapping key and the lookup key where there are none yet."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not any(secrets_dir.glob(f"{_WRAP}*")):
        make_secret(secrets_dir / f"{_WRAP}1", VAULT_KEY_BYTES)
    make_secret(secrets_dir / _LOOKUP, VAULT_KEY_BYTES)


def add_wrapping_key(secrets_dir: Path) -> int:
    """A new version of the wrapping key; every host needs the file before it is used. Returns the version."""
    version = load_vault_secrets(secrets_dir).version + 1
    make_secret(secrets_dir / f"{_WRAP}{version}", VAULT_KEY_BYTES)
    return version


def make_secret(path: Path, length_bytes: int) -> None:
    """A file of random bytes for its owner alone; one that is there stays."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(file, "wb") as out:
        out.write(secrets.token_bytes(length_bytes))
        out.flush()
        os.fsync(out.fileno())


def load_vault_secrets(secrets_dir: Path) -> VaultSecrets:
    """Raises `Unavailable` where one is missing, has another length, or can be read by others."""
    wrapping = {
        int(path.name.removeprefix(_WRAP)): _read(path)
        for path in sorted(secrets_dir.glob(f"{_WRAP}*"))
        if path.name.removeprefix(_WRAP).isdigit()
    }
    if not wrapping:
        raise Unavailable(
            f"no {_WRAP}1 in {secrets_dir}: run `tokenworks init`, or restore it from the backup of the secrets"
        )
    return VaultSecrets(wrapping, _read(secrets_dir / _LOOKUP))


def _read(path: Path) -> bytes:
    try:
        mode, key = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        raise Unavailable(
            f"{path} is missing: run `tokenworks init`, or restore it from the backup of the secrets"
        ) from None
    if mode & 0o077:
        raise Unavailable(f"{path} can be read by others: chmod 600 it")
    if len(key) != VAULT_KEY_BYTES:
        raise Unavailable(f"{path} is not a key of {VAULT_KEY_BYTES} bytes: restore it from the backup")
    return key
