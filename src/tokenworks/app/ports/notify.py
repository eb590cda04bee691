"""The outbox goes out: events and notices by webhook (signed, retried, idempotent, logged), work orders to the delivering
systems, notices to phones by the message port.

At least once: what is due is leased, sent, and marked; what dies in between is sent again with the same id.
"""

import time
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from tokenworks.api import ANSWERS, event_body, service_order_body, take_answer
from tokenworks.app.bootstrap import AppServices
from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import Settings
from tokenworks.app.webhook_secrets import webhook_secrets
from tokenworks.kernel import Conflict, Invalid, NotFound, Unavailable, flaw
from tokenworks.subscriptions import Delivery, Event, Notice, WorkOrder, event_content, signature

log = structlog.get_logger()

DELIVER_S: Final = 10.0
BATCH: Final = 100
REASON_CHARS_MAX: Final = 200


def deliver(services: AppServices, settings: Settings) -> int:
    """Send what is due. Returns how many arrived. Runs on many hosts at once: what one has leased the others leave."""
    # Other jobs wait meanwhile: a receiver that hangs has so long, and the rest is due again next time.
    sending = _Sending(services, settings, time.monotonic() + DELIVER_S)
    sending.notices()
    sending.events()
    sending.webhooks()
    sending.work_orders()
    return sending.arrived


class _Sending:
    """One turn. Who does not answer is not asked again in it, so that others have theirs."""

    def __init__(self, services: AppServices, settings: Settings, until_s: float) -> None:
        self._works = services
        self._settings = settings
        self._until_s = until_s
        self._silent: set[UUID | str | None] = set()
        self.arrived = 0

    def _over(self) -> bool:
        return time.monotonic() > self._until_s

    def _post(self, url: str, body: bytes, key: str, signed_with: list[bytes]) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": key}
        if signed_with:
            at_s = int(self._works.clock.now().timestamp())
            headers["X-Tokenworks-Signature"] = signature(signed_with, at_s, body)
        return post(url, body, headers, allow_private=self._settings.webhook_allow_private)

    # Notices.

    def notices(self) -> None:
        """To the operator's own webhook by way of the log, and to phones."""
        settings, notices = self._settings, self._works.notices
        if not (settings.webhook_url or settings.sms_url):
            return
        while not self._over() and (found := notices.lease(BATCH)):
            if settings.webhook_url:
                for notice in found:
                    if not notices.is_wanted(notice):
                        continue
                    self._works.hub.enqueue_own(
                        notice.notification_id, f"notice.{notice.kind}", notice.subscriber_id, _notice_body(notice)
                    )  # fmt: skip
                self.webhooks()
            for notice in found:
                if self._over() or "sms" in self._silent:
                    notices.postpone(notice)
                    continue
                if not notices.is_wanted(notice):
                    notices.give_up(notice)
                    continue
                try:
                    self._message(notice)
                except Unavailable:
                    self._silent.add("sms")
                    notices.mark_failed(notice)
                except Exception as error:  # of one notice; the others have their turn
                    log.error("notices.failed", error=_first_line(error))
                    notices.mark_failed(notice)
                else:
                    notices.mark_delivered(notice)
            if "sms" in self._silent:
                return

    def _message(self, notice: Notice) -> None:
        if not self._settings.sms_url:
            return
        told = self._works.notices.message(notice)
        if told is not None:
            phone, text = told
            body = msgspec.json.encode({"phone": phone, "kind": notice.kind, "text": text})
            self._post(self._settings.sms_url, body, str(notice.notification_id), [])
            if not self._settings.webhook_url:
                self.arrived += 1

    # Webhooks.

    def events(self) -> None:
        """Make deliveries of what has happened, for whoever listens."""
        hub = self._works.hub
        while not self._over():
            with self._works.transaction():
                listeners = hub.listeners()
                found = hub.events(BATCH)
                for event in found:
                    wanted = [
                        one
                        for one in listeners
                        if one.api == event.api and event.event_type in one.event_types
                    ]
                    body = self._body(event) if wanted else ""
                    hub.expand(event, {one.listener_id: body for one in wanted})
            if len(found) < BATCH:
                return

    def _body(self, event: Event) -> str:
        """With the resource, or, where that can't be shown, with its id: an event is never in the way of others."""
        try:
            with self._works.transaction():
                return event_body(self._works, event, self._settings.public_url)
        except Exception as error:
            log.error("webhooks.resource_not_shown", event_id=str(event.event_id), error=_first_line(error))
            return msgspec.json.encode(event_content(event, None, "resource")).decode()

    def webhooks(self) -> None:
        """Send the deliveries that are due."""
        hub, own_url = self._works.hub, self._settings.webhook_url
        while not self._over() and (
            found := hub.lease(BATCH, own=bool(own_url), but=self._silent_listeners())
        ):
            listeners = {one.listener_id: one for one in hub.listeners()}
            for delivery in found:
                if delivery.listener_id in self._silent:
                    hub.postpone_after_failure(delivery)
                    continue
                if self._over():
                    hub.postpone(delivery)
                    continue
                listener = None if delivery.listener_id is None else listeners.get(delivery.listener_id)
                if delivery.listener_id is not None and listener is None:
                    # A delivery is written after its listener, so that one went meanwhile.
                    hub.give_up_removed(delivery)
                    continue
                url = own_url if listener is None else listener.callback
                try:
                    signed_with = (
                        webhook_secrets(self._settings, self._works.clock.now())
                        if listener is None
                        else hub.secrets(listener)
                    )
                    self._webhook(delivery, url, signed_with)
                except (NotDelivered, Invalid, Unavailable) as error:
                    status = error.status if isinstance(error, NotDelivered) else None
                    hub.mark_failed(delivery, status, str(error))
                    self._silent.add(delivery.listener_id)

    def _silent_listeners(self) -> list[UUID | None]:
        return [one for one in self._silent if not isinstance(one, str)]

    def _webhook(self, delivery: Delivery, url: str, signed_with: list[bytes]) -> None:
        if delivery.body is None:
            self._works.hub.give_up(delivery, "the person that it is about was erased")
            return
        status, _ = self._post(url, delivery.body.encode(), str(delivery.event_id), signed_with)
        self._works.hub.mark_delivered(delivery, status)
        self.arrived += 1

    # Work orders.

    def work_orders(self) -> None:
        """Ask the delivering systems; one that answers at once is done with."""
        urls, deliveries = self._settings.fulfilment, self._works.deliveries
        while urls and not self._over() and (found := deliveries.lease(urls, BATCH)):
            for work in found:
                if self._over() or f"port {work.port}" in self._silent:
                    deliveries.postpone(work)
                    continue
                try:
                    self._work_order(work, urls[work.port])
                except NotDelivered as error:
                    deliveries.mark_push_failed(work, str(error))
                    self._silent.add(f"port {work.port}")
                except Exception as error:  # of one work order; the others have their turn
                    log.error(
                        "deliveries.failed", work_order=str(work.work_order_id), error=_first_line(error)
                    )
                    deliveries.mark_push_failed(work, _first_line(error))
            if self._silent:
                return

    def _work_order(self, work: WorkOrder, url: str) -> None:
        body = service_order_body(work, self._settings.public_url)
        signed_with = webhook_secrets(self._settings, self._works.clock.now())
        _, said = self._post(url, body, f"{work.work_order_id}-{work.attempts}", signed_with)
        self._works.deliveries.mark_pushed(work)
        self.arrived += 1
        try:
            content = msgspec.json.decode(said) if said.strip() else None
        except msgspec.DecodeError:
            return
        if not isinstance(content, dict):
            return
        state = content.get("state")
        if not isinstance(state, str) or state not in ANSWERS:
            return
        reason = content.get("description")
        reason = reason if isinstance(reason, str) and flaw(reason) is None else None
        try:
            now = take_answer(self._works, work, state, reason and reason[:REASON_CHARS_MAX], work.attempts)
        except (Conflict, NotFound, Invalid) as error:
            log.warning("deliveries.answer_refused", error=str(error))
            return
        self._works.identity.audit(
            f"port:{work.port}", "operator", "work_order.answer", str(work.work_order_id),
            {"state": "open"}, {"state": now, "reason": reason},
        )  # fmt: skip


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


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


def time_out(services: AppServices, settings: Settings) -> int:
    """Deliveries that nobody has answered for too long. Returns how many failed."""
    hours = settings.delivery_timeout_h
    return services.deliveries.time_out(timedelta(hours=hours)) if hours else 0
