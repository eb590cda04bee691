"""Notifications of events, with the resource that each is about."""

import contextlib
from dataclasses import replace
from typing import Any, Final

from tokenworks.api.tmf.bills import bill_resource
from tokenworks.api.tmf.inventory import product_resource
from tokenworks.api.tmf.orders import order_resource
from tokenworks.api.tmf.payments import payment_resource
from tokenworks.api.tmf.service_orders import service_order_resource
from tokenworks.kernel import TokenworksError
from tokenworks.subscriptions import Event, event_content
from tokenworks.web.content import encode_for
from tokenworks.web.services import Services

PAYMENTS_LOOKED_AT: Final = 100


def event_body(services: Services, event: Event, public_url: str) -> str:
    """The body of a notification: the resource as it is now, but with the state that the event reports."""
    name, resource = _name_and_resource(services, event)
    return encode_for(event_content(event, resource, name), public_url).decode()


def _name_and_resource(services: Services, event: Event) -> tuple[str, dict[str, object] | None]:
    name = event.event_type.removesuffix("StateChangeEvent").removesuffix("CreateEvent")
    name = name[0].lower() + name[1:]
    state: Any = event.state
    with contextlib.suppress(TokenworksError):
        if event.api == "productOrdering":
            order, subscriber_id = services.orders.find(event.ref)
            return name, order_resource(replace(order, state=state), subscriber_id)
        if event.api == "productInventory":
            product, subscriber_id = services.orders.product(event.ref)
            subscriber = services.subscriptions.find(str(subscriber_id))
            return name, product_resource(services, replace(product, state=state), subscriber)
        if event.api == "customerBill":
            return name, bill_resource(replace(services.bills.find(str(event.ref)), state=state))
        if event.api == "serviceOrdering":
            return name, service_order_resource(replace(services.deliveries.find(event.ref), state=state))
        subscriber = services.subscriptions.find(str(event.subscriber_id))
        for payment in services.payments.all(subscriber, 0, PAYMENTS_LOOKED_AT)[0]:
            if payment.payment_id == event.ref:
                return name, payment_resource(payment, subscriber.account_id)
    return name, None
