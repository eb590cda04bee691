"""The operator's own secret, which signs webhooks and work orders: a file of the secrets, and for a while the one of before."""

import contextlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tokenworks.app.settings import Settings
from tokenworks.kernel import Conflict, Unavailable
from tokenworks.trust import WEBHOOK, WEBHOOK_OLD, make_secret, read_private

SECRET_BYTES: Final = 32


def webhook_secret(settings: Settings) -> bytes:
    """What we sign with, for the operator's own webhook and work orders: a file of the secrets, made at the first need, 0600. It is
    read each time, so that what is copied to a host is used at once. Raises `Unavailable` where it can't be used.
    """
    path = settings.secrets / WEBHOOK
    make_secret(path, SECRET_BYTES, text=True)
    return _read_text(path)


def _read_text(path: Path) -> bytes:
    """A line end that an editor left behind a secret is no part of it."""
    secret = read_private(path).strip()
    if not secret or len(secret.split()) > 1:
        said = "is empty" if not secret else "has more than one line or word"
        raise Unavailable(
            f"{path} {said}, and a secret is one line: `tokenworks webhook rotate` makes a new one"
        )
    return secret


def webhook_secrets(settings: Settings, now: datetime) -> list[bytes]:
    """The secret, and in the overlap after a rotation the one of before."""
    found = [webhook_secret(settings)]
    ends_at = overlap_ends_at(settings)
    if ends_at is not None and now < ends_at:
        found.append(_read_text(settings.secrets / WEBHOOK_OLD))
    return found


def overlap_ends_at(settings: Settings) -> datetime | None:
    """Until when the secret of before signs, too; None where there is none."""
    try:
        rotated_s = (settings.secrets / WEBHOOK_OLD).stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(rotated_s, UTC) + timedelta(hours=settings.webhook_secret_overlap_h)


def rotate_webhook_secret(settings: Settings, now: datetime, *, force: bool = False) -> str:
    """A new secret of our own: the file of the one of before is kept beside it, dated with the rotation. There is a secret at every
    moment, of which another process may read either.

    Raises `Conflict` while the one of before still signs (a receiver may have that one alone), but for `force`, which ends it.
    """
    path, old = settings.secrets / WEBHOOK, settings.secrets / WEBHOOK_OLD
    ends_at = overlap_ends_at(settings)
    if ends_at is not None and now < ends_at and not force:
        raise Conflict(
            f"the secret was rotated already, and the one of before signs until {ends_at:%Y-%m-%d %H:%M} UTC: receivers may have that "
            "one alone. Rotate again after that, or with --force, which ends it now"
        )
    make_secret(path, SECRET_BYTES, text=True)
    # One that can't be used signed nothing: nobody needs it beside the new one.
    with contextlib.suppress(Unavailable):
        of_before = _read_text(path)
        # A copy first: the secret itself is replaced by one rename.
        before = path.with_name(f".{WEBHOOK_OLD}.{secrets.token_hex(8)}")
        before.touch(mode=0o600)
        before.write_bytes(of_before)
        os.utime(before, (now.timestamp(), now.timestamp()))
        before.replace(old)
    new = path.with_name(f".{WEBHOOK}.{secrets.token_hex(8)}")
    make_secret(new, SECRET_BYTES, text=True)
    text = _read_text(new).decode()
    new.replace(path)
    return text
