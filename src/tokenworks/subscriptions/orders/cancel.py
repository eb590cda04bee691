"""Cancelling a product, now or with the end of its cycle, and withdrawing an order that is not completed."""

from dataclasses import replace
from uuid import UUID

from tokenworks.kernel import uuid7
from tokenworks.subscriptions.errors import ChangeNotAllowed
from tokenworks.subscriptions.model import ChargeCredit, Order, Product, Subscriber
from tokenworks.subscriptions.orders import cycle, order_credits, order_store, product_store, products
from tokenworks.subscriptions.orders.change import ChangeTiming
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import LIVE_STATES, check_live, checked_reason
from tokenworks.subscriptions.orders.order_book import find_order
from tokenworks.subscriptions.people import people_store


def cancel(
    context: Context, product_id: UUID, when: ChangeTiming = "now", idempotency_key: str | None = None
) -> Order:
    """See `Orders.cancel`."""
    with context.connection.transaction():
        product, subscriber = context.lock(product_id)
        before = context.find_repeated(subscriber, product_id, idempotency_key, "delete")
        if before is not None:
            return before
        check_live(product)
        if product.parent_id is not None:
            raise ChangeNotAllowed(f"{product.offering_id} is a part of a bundle: cancel the bundle")
        if when == "cycle_end" and product.cycle_end is None:
            raise ChangeNotAllowed(f"{product.offering_id} has no cycle: cancel it now")
        product = cycle.renew_due(context, subscriber, product)
        now = context.clock.now()
        order = Order(
            uuid7(), product_id, product.offering_id, product.offering_version, now, 0, "CNY", new=True, action="delete",
            state="inProgress" if when == "now" else "pending",
        )  # fmt: skip
        order_store.add_order(context.connection, subscriber, order, idempotency_key)
        if when == "cycle_end":
            for part in _live_parts(context, subscriber, product):
                product_store.set_product(
                    context.connection, part.product_id, ends_after_cycle=True, next_version=None
                )
            return order
        charge_credits = _end_all(context, subscriber, product, credit=True)
        order_store.set_credit_request(
            context.connection, order.order_id, {"why": "cancelled", "credits": charge_credits}
        )
        order_credits.give_back(context, order.order_id)
        found = order_store.order(context.connection, order.order_id)
        assert found is not None
    return replace(found[0], new=True)


def end(context: Context, product_id: UUID) -> None:
    """See `Orders.end`."""
    product, subscriber = context.lock_live(product_id)
    _end_all(context, subscriber, product, credit=False)


def _end_all(
    context: Context, subscriber: Subscriber, product: Product, *, credit: bool
) -> list[ChargeCredit]:
    """End a product and its parts. Return what `Sales.give_back` has to credit."""
    charge_credits: list[ChargeCredit] = []
    for part in _live_parts(context, subscriber, product):
        if credit and part.state != "pendingActive":
            charge_credits += context.sales.credits(part, context.clock.now())
        products.end(context, part, subscriber, "cancelled")
    return charge_credits


def _live_parts(context: Context, subscriber: Subscriber, product: Product) -> list[Product]:
    """Lock a product and the parts of a bundle, and return the live ones."""
    live = []
    for product_id in (product.product_id, *product_store.parts_of(context.connection, product.product_id)):
        found = product_store.lock_product(context.connection, product_id)
        if found is None or found[0].state not in LIVE_STATES:
            continue
        part = found[0]
        live.append(part if part.parent_id is None else cycle.renew_due(context, subscriber, part))
    return live


def withdraw(context: Context, order_id: UUID, reason: str | None = None) -> None:
    """See `Orders.withdraw`."""
    reason = checked_reason(reason)
    with context.connection.transaction():
        order, subscriber_id = find_order(context.connection, order_id)
        subscriber = people_store.lock_subscriber(context.vault, subscriber_id)
        assert subscriber is not None
        order, _ = find_order(context.connection, order_id)
        now = context.clock.now()
        if order.action != "add" and order.state == "pending":
            product_store.set_product(
                context.connection, order.product_id, next_version=None, ends_after_cycle=False
            )
            order_store.end_order(context.connection, order_id, "cancelled", now, 0, reason)
            return
        if order.state == "acknowledged":
            order_store.end_order(context.connection, order_id, "cancelled", now, 0, reason)
            return
        ordered = product_store.products_of_order(context.connection, order_id)
        if order.action != "add" or order.state != "inProgress" or any(p.state == "active" for p in ordered):
            raise ChangeNotAllowed(f"the order is {order.state}: cancel its product, or ask for a refund")
        for product in ordered:
            products.end(context, product, subscriber, "cancelled")
        order_store.end_order(context.connection, order_id, "cancelled", now, 0, reason)


def cancel_orders_to_come(context: Context, subscriber: Subscriber, reason: str) -> None:
    """See `Orders.cancel_orders_to_come`."""
    for order in order_store.orders_to_come(context.connection, subscriber.subscriber_id):
        order_store.end_order(context.connection, order.order_id, "cancelled", context.clock.now(), 0, reason)
