"""The message port: who sends one-time codes and notices to phones."""

import os
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Final

import msgspec

from tokenworks.app.settings import Settings
from tokenworks.console import SendCode
from tokenworks.kernel import Unavailable

SEND_S: Final = 5.0


def code_sender(settings: Settings) -> SendCode:
    """By `sms_url` where it is set; else, in a dev environment alone, into a file that only we can read."""
    if settings.sms_url:
        url = settings.sms_url

        def by_webhook(phone: str, code: str) -> None:
            body = msgspec.json.encode({"phone": phone, "kind": "sign_in_code", "code": code})
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=SEND_S):
                    return
            except (urllib.error.URLError, TimeoutError, OSError):
                raise Unavailable("the code could not be sent: try again in a moment") from None

        return by_webhook
    if settings.environment != "dev":

        def nobody(phone: str, code: str) -> None:
            raise Unavailable("codes can't be sent here: the operator has to set sms_url")

        return nobody

    def into_file(phone: str, code: str) -> None:
        file = os.open(settings.codes_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "a", encoding="ascii") as out:
            out.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {phone} {code}\n")

    return into_file
