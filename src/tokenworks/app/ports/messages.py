"""The message port: sends one-time codes to phones."""

import os
from datetime import UTC, datetime

import msgspec
import structlog

from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import Settings
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import CodeSender

log = structlog.get_logger()


def code_sender(settings: Settings) -> CodeSender:
    """The sender of codes: `sms_url` where it is set; else, in a dev environment only, a file that only this user can read."""
    if settings.sms_url:
        url = settings.sms_url

        def by_webhook(phone: str, code: str) -> None:
            body = msgspec.json.encode({"phone": phone, "kind": "sign_in_code", "code": code})
            try:
                post(url, body, {}, allow_private=settings.webhook_allow_private)
            except NotDelivered as error:
                log.warning("messages.code_not_sent", error=str(error))
                raise Unavailable("the code could not be sent: try again in a moment") from None

        return by_webhook
    if settings.environment != "dev":

        def unavailable(phone: str, code: str) -> None:
            raise Unavailable("codes can't be sent here: the operator has to set sms_url")

        return unavailable

    def into_file(phone: str, code: str) -> None:
        file = os.open(settings.codes_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "a", encoding="ascii") as out:
            out.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {phone} {code}\n")

    return into_file
