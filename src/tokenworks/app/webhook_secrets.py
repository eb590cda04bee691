"""The secret that signs the operator's own webhook and work orders, in the files of these settings."""

from datetime import datetime, timedelta

from tokenworks.app.settings import Settings
from tokenworks.trust import WebhookSecret


def _secret(settings: Settings) -> WebhookSecret:
    return WebhookSecret(settings.secrets, timedelta(hours=settings.webhook_secret_overlap_h))


def webhook_secret(settings: Settings) -> bytes:
    """The current secret. Raises `Unavailable` where it can't be read."""
    return _secret(settings).current()


def webhook_secrets(settings: Settings, now: datetime) -> list[bytes]:
    """The secrets to sign with: the current one, and during the overlap after a rotation also the one before."""
    return _secret(settings).signing(now)


def rotate_webhook_secret(settings: Settings, now: datetime, *, force: bool = False) -> str:
    """Make a new secret and return its text. Raises `Conflict` while the one before still signs, unless `force`."""
    return _secret(settings).rotate(now, force=force)
