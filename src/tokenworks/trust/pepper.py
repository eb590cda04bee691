"""The pepper that keys are hashed under: a file of the data directory, mode 0600, with a version in its name."""

import os
import secrets
from pathlib import Path
from typing import Final

from tokenworks.kernel import Unavailable
from tokenworks.trust.vault_secrets import ensure_vault_secrets

PEPPER_BYTES: Final = 32


def ensure_pepper(secrets_dir: Path) -> None:
    """Make version 1 where there is none yet, and the keys of the person vault beside it."""
    secrets_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ensure_vault_secrets(secrets_dir)
    path = secrets_dir / "pepper-1"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(file, "wb") as out:
        out.write(secrets.token_bytes(PEPPER_BYTES))
        out.flush()
        os.fsync(out.fileno())


def load_peppers(secrets_dir: Path) -> dict[int, bytes]:
    """All versions; the highest is used for new keys. Refuses a file that others may read."""
    peppers = {}
    for path in sorted(secrets_dir.glob("pepper-*")):
        if path.stat().st_mode & 0o077:
            raise Unavailable(f"{path} can be read by others: chmod 600 it, and think about new keys")
        pepper = path.read_bytes()
        if len(pepper) != PEPPER_BYTES:
            raise Unavailable(f"{path} is not a pepper of {PEPPER_BYTES} bytes: restore it from the backup")
        peppers[int(path.name.removeprefix("pepper-"))] = pepper
    if not peppers:
        raise Unavailable(f"no pepper in {secrets_dir}: run `tokenworks init`, or restore it from the backup")
    return peppers
