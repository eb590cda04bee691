"""The secret that signs the operator's own webhook and work orders. After a rotation the previous secret also signs for a while."""

import contextlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tokenworks.kernel import Conflict, Unavailable
from tokenworks.trust.secret_files import WEBHOOK, WEBHOOK_OLD, make_secret, read_private

SECRET_BYTES: Final = 32


class WebhookSecret:
    """The secret in a file of `secrets_dir`, of mode 0600, which is made when it is first needed.

    The file is read for each use, so a file that is copied to a host is used at once. `overlap`: how long after a rotation the previous
    secret signs, too.
    """

    def __init__(self, secrets_dir: Path, overlap: timedelta) -> None:
        self._path = secrets_dir / WEBHOOK
        self._old = secrets_dir / WEBHOOK_OLD
        self._overlap = overlap

    def current(self) -> bytes:
        """The current secret. Raises `Unavailable` if its file cannot be used."""
        make_secret(self._path, SECRET_BYTES, text=True)
        return _read_text(self._path)

    def signing(self, now: datetime) -> list[bytes]:
        """The secrets that sign now: the current one, and during the overlap after a rotation the previous one."""
        found = [self.current()]
        ends_at = self.overlap_ends_at()
        if ends_at is not None and now < ends_at:
            found.append(_read_text(self._old))
        return found

    def overlap_ends_at(self) -> datetime | None:
        """Until when the previous secret signs, too; None if there is no previous secret."""
        try:
            rotated_s = self._old.stat().st_mtime
        except FileNotFoundError:
            return None
        return datetime.fromtimestamp(rotated_s, UTC) + self._overlap

    def rotate(self, now: datetime, *, force: bool = False) -> str:
        """Make a new secret, and return it. The previous one is stored beside it, in a file dated with the rotation. At every moment there
        is a complete secret, the old or the new one, for other processes to read.

        Raises `Conflict` while the previous secret still signs, since a receiver may only know that one. `force` ends it instead.
        """
        ends_at = self.overlap_ends_at()
        if ends_at is not None and now < ends_at and not force:
            raise Conflict(
                f"the secret was rotated already, and the previous one signs until {ends_at:%Y-%m-%d %H:%M} UTC: receivers may only know "
                "that one. Rotate again after that, or with --force, which ends it now"
            )
        path = self._path
        make_secret(path, SECRET_BYTES, text=True)
        # A secret that cannot be used has signed nothing, so it need not be kept.
        with contextlib.suppress(Unavailable):
            previous = _read_text(path)
            # The previous secret is copied first; one rename then replaces the current secret.
            copy = path.with_name(f".{WEBHOOK_OLD}.{secrets.token_hex(8)}")
            copy.touch(mode=0o600)
            copy.write_bytes(previous)
            os.utime(copy, (now.timestamp(), now.timestamp()))
            copy.replace(self._old)
        new = path.with_name(f".{WEBHOOK}.{secrets.token_hex(8)}")
        make_secret(new, SECRET_BYTES, text=True)
        text = _read_text(new).decode()
        new.replace(path)
        return text


def _read_text(path: Path) -> bytes:
    """The secret in a file, without a line end that an editor may have added. Raises `Unavailable`."""
    secret = read_private(path).strip()
    if not secret or len(secret.split()) > 1:
        problem = "is empty" if not secret else "has more than one line or word"
        raise Unavailable(
            f"{path} {problem}, and a secret is one line: `tokenworks webhook rotate` makes a new one"
        )
    return secret
