"""The secret of the operator's own webhook and work orders, where these settings keep it."""

from datetime import datetime, timedelta

from tokenworks.app.settings import Settings
from tokenworks.trust import WebhookSecret


def _secret(settings: Settings) -> WebhookSecret:
    return WebhookSecret(settings.secrets, timedelta(hours=settings.webhook_secret_overlap_h))


def webhook_secret(settings: Settings) -> bytes:
    """What is signed with, for the operator's own webhook and work orders. Raises `Unavailable` where it can't be used."""
    return _secret(settings).current()


def webhook_secrets(settings: Settings, now: datetime) -> list[bytes]:
    """The secret, and in the overlap after a rotation the one of before."""
    return _secret(settings).signing(now)


def rotate_webhook_secret(settings: Settings, now: datetime, *, force: bool = False) -> str:
    """The text of a new secret. Raises `Conflict` while the one of before still signs, but for `force`."""
    return _secret(settings).rotate(now, force=force)
