"""What the operator's own webhook and work orders are signed with: a file of the secrets, and for a while the one of before."""

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
    """In `secrets_dir`, made at the first need, 0600. It is read each time, so that what is copied to a host is used at once. `overlap`:
    for how long the secret of before a rotation signs, too.
    """

    def __init__(self, secrets_dir: Path, overlap: timedelta) -> None:
        self._path = secrets_dir / WEBHOOK
        self._old = secrets_dir / WEBHOOK_OLD
        self._overlap = overlap

    def current(self) -> bytes:
        """Raises `Unavailable` where it can't be used."""
        make_secret(self._path, SECRET_BYTES, text=True)
        return _read_text(self._path)

    def signing(self, now: datetime) -> list[bytes]:
        """The secret, and in the overlap after a rotation the one of before."""
        found = [self.current()]
        ends_at = self.overlap_ends_at()
        if ends_at is not None and now < ends_at:
            found.append(_read_text(self._old))
        return found

    def overlap_ends_at(self) -> datetime | None:
        """Until when the secret of before signs, too; None where there is none."""
        try:
            rotated_s = self._old.stat().st_mtime
        except FileNotFoundError:
            return None
        return datetime.fromtimestamp(rotated_s, UTC) + self._overlap

    def rotate(self, now: datetime, *, force: bool = False) -> str:
        """A new secret of our own: the file of the one of before is kept beside it, dated with the rotation. There is a secret at every
        moment, of which another process may read either.

        Raises `Conflict` while the one of before still signs (a receiver may have that one alone), but for `force`, which ends it.
        """
        ends_at = self.overlap_ends_at()
        if ends_at is not None and now < ends_at and not force:
            raise Conflict(
                f"the secret was rotated already, and the one of before signs until {ends_at:%Y-%m-%d %H:%M} UTC: receivers may have that "
                "one alone. Rotate again after that, or with --force, which ends it now"
            )
        path = self._path
        make_secret(path, SECRET_BYTES, text=True)
        # One that can't be used signed nothing: nobody needs it beside the new one.
        with contextlib.suppress(Unavailable):
            of_before = _read_text(path)
            # A copy first: the secret itself is replaced by one rename.
            before = path.with_name(f".{WEBHOOK_OLD}.{secrets.token_hex(8)}")
            before.touch(mode=0o600)
            before.write_bytes(of_before)
            os.utime(before, (now.timestamp(), now.timestamp()))
            before.replace(self._old)
        new = path.with_name(f".{WEBHOOK}.{secrets.token_hex(8)}")
        make_secret(new, SECRET_BYTES, text=True)
        text = _read_text(new).decode()
        new.replace(path)
        return text


def _read_text(path: Path) -> bytes:
    """A line end that an editor left behind a secret is no part of it."""
    secret = read_private(path).strip()
    if not secret or len(secret.split()) > 1:
        said = "is empty" if not secret else "has more than one line or word"
        raise Unavailable(
            f"{path} {said}, and a secret is one line: `tokenworks webhook rotate` makes a new one"
        )
    return secret
