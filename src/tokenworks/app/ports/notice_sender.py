"""Sends notices: makes them into deliveries, and sends those by text message, by e-mail and to the webhooks of subscribers.

Delivery is at least once: a delivery is leased, sent and marked. If the process dies in between, it is sent again under the same id
(`Idempotency-Key`, `Message-ID`, `webhook-id`).
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec
import structlog

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.ports.smtp import Mailer, MailFailed, mail
from tokenworks.app.settings import Settings
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import CONFIRM, Channel, Notice, NoticeDelivery, NoticeSkipped, Outgoing
from tokenworks.texts import CATALOGUES

log = structlog.get_logger()

# Bounded for each channel, since other jobs wait meanwhile: deliveries that are left are due again in the next turn.
CHANNEL_S: Final = 8.0
BATCH: Final = 100
# Webhooks of subscribers are asked side by side, and at most once each in a turn: slow ones do not delay all others.
WEBHOOKS_AT_ONCE: Final = 16
WEBHOOK_S: Final = 3.0
UNSUBSCRIBE_PATH: Final = "/api/notices/unsubscribe"
CONFIRM_PATH: Final = "/api/notices/email/confirm"


def ports_of(settings: Settings) -> list[Channel]:
    """The channels that are set up here, beside the console."""
    found: list[Channel] = ["webhook"]
    if settings.sms_url:
        found.append("sms")
    if settings.sends_mail:
        found.append("email")
    return found


class NoticeTurn:
    """One turn of sending. `arrived`: the deliveries that their receivers have accepted."""

    def __init__(self, services: AppServices, settings: Settings) -> None:
        self._services = services
        self._settings = settings
        self._notices = services.notices
        self.arrived = 0

    def run(self) -> None:
        """Make and send what is due. A channel that fails does not delay the others."""
        self.fan_out()
        steps: tuple[tuple[Channel, Callable[[float], None]], ...] = (
            ("sms", self._sms),
            ("email", self._mails),
            ("webhook", self._webhooks),
        )
        ports = ports_of(self._settings)
        self._notices.skip_without_port(ports)
        for channel, step in steps:
            if channel not in ports:
                continue
            try:
                step(time.monotonic() + CHANNEL_S)
            except Exception as error:  # the other channels have their turn
                log.error("notices.channel_failed", channel=channel, error=type(error).__name__)

    def fan_out(self) -> None:
        """Make the deliveries of new notices, and those to the operator's own webhook, each batch in one transaction."""
        until_s = time.monotonic() + CHANNEL_S
        while time.monotonic() < until_s:
            with self._services.transaction():
                found, read = self._notices.fan_out(BATCH, ports_of(self._settings))
                if self._settings.webhook_url:
                    for notice in found:
                        if notice.kind != CONFIRM:
                            self._services.hub.enqueue_own(
                                notice.notification_id, f"notice.{notice.kind}", notice.subscriber_id, _notice_body(notice)
                            )  # fmt: skip
            if read < BATCH:
                return

    def _leased(self, channel: Channel, until_s: float) -> list[tuple[NoticeDelivery, Outgoing]]:
        """Lease a batch that has something to send, and say what each delivery says. What must not be sent is marked."""
        while leased := self._notices.lease([channel], BATCH):
            found = self._messages(leased, until_s)
            if found or time.monotonic() > until_s:
                return found
        return []

    def _messages(
        self, leased: Collection[NoticeDelivery], until_s: float
    ) -> list[tuple[NoticeDelivery, Outgoing]]:
        found = []
        for delivery in leased:
            if time.monotonic() > until_s:
                self._notices.postpone(delivery)
                continue
            try:
                found.append((delivery, self._notices.message(delivery)))
            except NoticeSkipped as skipped:
                self._notices.mark_skipped(delivery, skipped.cause)
            except Exception as error:  # it concerns one delivery; the others go on
                log.error(
                    "notices.unreadable", delivery=str(delivery.delivery_id), error=type(error).__name__
                )
                self._notices.mark_failed(delivery, "unreadable")
        return found

    # Text messages.

    def _sms(self, until_s: float) -> None:
        while time.monotonic() < until_s and (found := self._leased("sms", until_s)):
            silent = False
            for delivery, message in found:
                if silent or time.monotonic() > until_s:
                    self._notices.postpone(delivery)
                    continue
                body = msgspec.json.encode({"phone": message.to, "kind": delivery.kind, "text": message.text})
                try:
                    post(
                        self._settings.sms_url, body, {"Idempotency-Key": str(delivery.delivery_id)},
                        allow_private=self._settings.webhook_allow_private,
                    )  # fmt: skip
                except NotDelivered as error:
                    self._notices.mark_failed(delivery, _cause(error))
                    # A number that the port refuses concerns one message.
                    silent = error.status is None or error.status >= 500
                else:
                    self._notices.mark_sent(delivery)
                    self.arrived += 1
            if silent:
                return

    # E-mails.

    def _mails(self, until_s: float) -> None:
        with Mailer(self._settings) as mailer:
            while time.monotonic() < until_s and (found := self._leased("email", until_s)):
                silent = False
                for delivery, message in found:
                    if silent or time.monotonic() > until_s:
                        self._notices.postpone(delivery)
                        continue
                    try:
                        mailer.send(self._mail(delivery, message))
                    except MailFailed as error:
                        self._notices.mark_failed(delivery, error.cause, for_good=error.for_good)
                        silent = error.whole
                    except ValueError:
                        self._notices.mark_failed(delivery, "unreadable", for_good=True)
                    else:
                        self._notices.mark_sent(delivery)
                        self.arrived += 1
                if silent:
                    return

    def _mail(self, delivery: NoticeDelivery, message: Outgoing) -> EmailMessage:
        settings, texts = self._settings, CATALOGUES[message.language].notice_mails
        base, token = settings.public_url.rstrip("/"), quote(message.token or "", safe="")
        if delivery.kind == CONFIRM:
            unsubscribe = None
            text = f"{message.text}\n\n{base}{CONFIRM_PATH}?token={token}\n"
        else:
            unsubscribe = f"{base}{UNSUBSCRIBE_PATH}?token={token}" if message.token else None
            text = f"{message.text}\n\n-- \n{settings.operator_name}\n{texts['why']}\n"
            if unsubscribe is not None:
                text += f"{texts['stop']} {unsubscribe}\n"
        subject = f"{settings.operator_name}: {message.title}"
        return mail(settings, message.to, subject, text, str(delivery.delivery_id), unsubscribe)

    # Webhooks of subscribers.

    def _webhooks(self, until_s: float) -> None:
        asked: set[UUID] = set()
        with ThreadPoolExecutor(WEBHOOKS_AT_ONCE, "notice-webhook") as pool:
            while time.monotonic() < until_s and (found := self._leased("webhook", until_s)):
                at_s = int(self._services.clock.now().timestamp())
                jobs = []
                for delivery, message in found:
                    if delivery.person_id in asked:
                        self._notices.postpone(delivery)
                    else:
                        asked.add(delivery.person_id)
                        job = pool.submit(_post_signed, self._settings, delivery, message, at_s)
                        jobs.append((delivery, job))
                for delivery, job in jobs:
                    cause = job.result()
                    if cause is None:
                        self._notices.mark_sent(delivery)
                        self.arrived += 1
                    else:
                        self._notices.mark_failed(delivery, cause, for_good=cause == "http_410")


def _post_signed(settings: Settings, delivery: NoticeDelivery, message: Outgoing, at_s: int) -> str | None:
    """POST a webhook; why it did not arrive, as a code; None if it did. Runs in a thread, without the database."""
    body = webhook_body(delivery, message)
    message_id = f"msg_{delivery.delivery_id.hex}"
    try:
        post(
            message.to, body, webhook_headers(message.secrets, message_id, at_s, body),
            allow_private=settings.notice_webhook_allow_private, timeout_s=WEBHOOK_S,
        )  # fmt: skip
    except (NotDelivered, Unavailable) as error:
        return _cause(error)
    except Exception:  # one receiver's answer must not end the turn
        return "unreadable_answer"
    return None


def webhook_body(delivery: NoticeDelivery, message: Outgoing) -> bytes:
    """The body of a webhook, as Standard Webhooks recommends it: type, timestamp, data."""
    content = {name: value for name, value in (delivery.content or {}).items() if name != "person_id"}
    return msgspec.json.encode(
        {
            "type": f"notice.{delivery.kind}",
            "timestamp": delivery.created_at,
            "data": {
                "id": str(delivery.notification_id), "ref": delivery.ref, "title": message.title, "text": message.text,
                "content": content,
            },
        }
    )  # fmt: skip


def webhook_headers(secrets: Collection[bytes], message_id: str, at_s: int, body: bytes) -> Mapping[str, str]:
    """The headers of Standard Webhooks 1.0.0 (standard-webhooks.com, read 2026-11): an HMAC-SHA256 of `<id>.<timestamp>.<body>` for each
    secret that is valid, with spaces between.
    """
    signed = f"{message_id}.{at_s}.".encode() + body
    macs = (
        base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{mac}" for mac in macs),
    }


def _cause(error: Exception) -> str:
    """A code for what did not arrive: the error's own text names the receiver's host."""
    status = error.status if isinstance(error, NotDelivered) else None
    return "no_answer" if status is None else f"http_{status}"


def _notice_body(notice: Notice) -> str:
    return msgspec.json.encode(
        {
            "id": str(notice.notification_id),
            "kind": notice.kind,
            "ref": notice.ref,
            "subscriber_id": str(notice.subscriber_id),
            "created_at": notice.created_at,
            "content": notice.content,
        }
    ).decode()
