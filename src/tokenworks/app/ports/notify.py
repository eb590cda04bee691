"""Sends the outbox: notices to people (`notice_sender`), events and notices by webhook (signed, retried, idempotent, logged), work orders
to the delivering systems.

Delivery is at least once: a message is leased, sent and marked. Where the process dies in between, the message is sent again with the
same id.
"""

import time
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from tokenworks.api import ANSWERS, event_body, service_order_body, take_answer
from tokenworks.app.bootstrap import AppServices
from tokenworks.app.ports.notice_sender import NoticeTurn
from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import Settings
from tokenworks.app.webhook_secrets import webhook_secrets
from tokenworks.kernel import Conflict, Invalid, NotFound, Unavailable, flaw
from tokenworks.subscriptions import Delivery, Event, WorkOrder, event_content, signature

log = structlog.get_logger()

DELIVER_S: Final = 10.0
BATCH: Final = 100
REASON_CHARS_MAX: Final = 200


def deliver(services: AppServices, settings: Settings) -> int:
    """Send the messages that are due. Returns how many arrived. Several hosts may do it at once: a lease keeps a message to one host."""
    # Bounded, since other jobs wait meanwhile: messages that are left are due again in the next turn.
    notices = NoticeTurn(services, settings)
    try:
        notices.run()
    except Exception as error:  # events and work orders have their turn
        log.error("notices.failed", error=_first_line(error))
    turn = _DeliveryTurn(services, settings, time.monotonic() + DELIVER_S)
    turn.events()
    turn.webhooks()
    turn.work_orders()
    return notices.arrived + turn.arrived


class _DeliveryTurn:
    """One turn. A receiver that does not answer gets no further message in this turn, so that it does not delay the others."""

    def __init__(self, services: AppServices, settings: Settings, until_s: float) -> None:
        self._services = services
        self._settings = settings
        self._until_s = until_s
        self._silent: set[UUID | str | None] = set()
        self.arrived = 0

    def _over(self) -> bool:
        return time.monotonic() > self._until_s

    def _post(self, url: str, body: bytes, key: str, signed_with: list[bytes]) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": key}
        if signed_with:
            at_s = int(self._services.clock.now().timestamp())
            headers["X-Tokenworks-Signature"] = signature(signed_with, at_s, body)
        return post(url, body, headers, allow_private=self._settings.webhook_allow_private)

    # Webhooks.

    def events(self) -> None:
        """Make a delivery of each new event for each listener."""
        hub = self._services.hub
        while not self._over():
            with self._services.transaction():
                listeners = hub.listeners()
                found = hub.events(BATCH)
                for event in found:
                    wanted = [
                        listener
                        for listener in listeners
                        if listener.api == event.api and event.event_type in listener.event_types
                    ]
                    body = self._body(event) if wanted else ""
                    hub.expand(event, {listener.listener_id: body for listener in wanted})
            if len(found) < BATCH:
                return

    def _body(self, event: Event) -> str:
        """The event with its resource; with the resource's id alone where the resource can't be shown, so that no event blocks others."""
        try:
            with self._services.transaction():
                return event_body(self._services, event, self._settings.public_url)
        except Exception as error:
            log.error("webhooks.resource_not_shown", event_id=str(event.event_id), error=_first_line(error))
            return msgspec.json.encode(event_content(event, None, "resource")).decode()

    def webhooks(self) -> None:
        """Send the deliveries that are due."""
        hub, own_url = self._services.hub, self._settings.webhook_url
        while not self._over() and (
            found := hub.lease(BATCH, own=bool(own_url), but=self._silent_listeners())
        ):
            listeners = {listener.listener_id: listener for listener in hub.listeners()}
            for delivery in found:
                if delivery.listener_id in self._silent:
                    hub.postpone_after_failure(delivery)
                    continue
                if self._over():
                    hub.postpone(delivery)
                    continue
                listener = None if delivery.listener_id is None else listeners.get(delivery.listener_id)
                if delivery.listener_id is not None and listener is None:
                    # A delivery is written after its listener, so the listener was removed meanwhile.
                    hub.give_up_removed(delivery)
                    continue
                url = own_url if listener is None else listener.callback
                try:
                    signed_with = (
                        webhook_secrets(self._settings, self._services.clock.now())
                        if listener is None
                        else hub.secrets(listener)
                    )
                    self._webhook(delivery, url, signed_with)
                except (NotDelivered, Invalid, Unavailable) as error:
                    status = error.status if isinstance(error, NotDelivered) else None
                    hub.mark_failed(delivery, status, str(error))
                    self._silent.add(delivery.listener_id)

    def _silent_listeners(self) -> list[UUID | None]:
        return [receiver for receiver in self._silent if not isinstance(receiver, str)]

    def _webhook(self, delivery: Delivery, url: str, signed_with: list[bytes]) -> None:
        if delivery.body is None:
            self._services.hub.give_up(delivery, "the person that it is about was erased")
            return
        status, _ = self._post(url, delivery.body.encode(), str(delivery.event_id), signed_with)
        self._services.hub.mark_delivered(delivery, status)
        self.arrived += 1

    # Work orders.

    def work_orders(self) -> None:
        """Send work orders to the delivering systems, and take the answer of a system that answers at once."""
        urls, deliveries = self._settings.fulfilment, self._services.deliveries
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
                except Exception as error:  # it concerns one work order; the others go on
                    log.error(
                        "deliveries.failed", work_order=str(work.work_order_id), error=_first_line(error)
                    )
                    deliveries.mark_push_failed(work, _first_line(error))
            if self._silent:
                return

    def _work_order(self, work: WorkOrder, url: str) -> None:
        body = service_order_body(work, self._settings.public_url)
        signed_with = webhook_secrets(self._settings, self._services.clock.now())
        _, answer = self._post(url, body, f"{work.work_order_id}-{work.attempts}", signed_with)
        self._services.deliveries.mark_pushed(work)
        self.arrived += 1
        try:
            content = msgspec.json.decode(answer) if answer.strip() else None
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
            now = take_answer(
                self._services, work, state, reason and reason[:REASON_CHARS_MAX], work.attempts
            )
        except (Conflict, NotFound, Invalid) as error:
            log.warning("deliveries.answer_refused", error=str(error))
            return
        self._services.identity.audit(
            f"port:{work.port}", "operator", "work_order.answer", str(work.work_order_id),
            {"state": "open"}, {"state": now, "reason": reason},
        )  # fmt: skip


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def time_out_deliveries(services: AppServices, settings: Settings) -> int:
    """Fail deliveries that were not answered within `delivery_timeout_h`. Returns how many."""
    hours = settings.delivery_timeout_h
    return services.deliveries.time_out(timedelta(hours=hours)) if hours else 0
