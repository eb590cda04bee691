"""The beginning and the end of a product: its charge, its buckets, and the work orders of delivering systems."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.model import Product, Subscriber, WorkOrder
from tokenworks.subscriptions.orders import order_store, product_store, told, work_store
from tokenworks.subscriptions.orders.context import Context


def activate(
    context: Context,
    subscriber: Subscriber,
    product: Product,
    sold: SoldOffering,
    price_nano: int | None = None,
) -> int:
    """Charge a product's first cycle and open its buckets. Return the charge in nano."""
    amount = context.sales.cycle(subscriber, product, sold, joined=True, price=price_nano)
    open_windows(context, subscriber, product, sold, product.cycle_start)
    return amount


def open_windows(
    context: Context, subscriber: Subscriber, product: Product, sold: SoldOffering, begin: datetime
) -> None:
    """Open the window buckets of a product's offering, valid from `begin`."""
    context.ledger.open_windows(
        account_id=subscriber.account_id,
        product_id=product.product_id,
        specs=sold.offering.window_buckets(),
        rate_version=sold.rate_version,
        valid_from=begin,
        valid_until=None if product.renews else product.cycle_end,
    )


def end(
    context: Context,
    product: Product,
    subscriber: Subscriber,
    state: Literal["cancelled", "aborted", "expired"],
) -> None:
    """End a locked product: withdraw what is unused, end the orders that wait for the product, have its delivery withdrawn."""
    now = context.clock.now()
    product_store.set_product(context.connection, product.product_id, state=state, ended_at=now, held_at=None)
    context.ledger.withdraw_product(
        subscriber.account_id, product.product_id, "expire" if state == "expired" else "withdraw"
    )
    context.charges.stop(subscriber.account_id, product.product_id)
    for order_id in order_store.waiting_orders(context.connection, product.product_id, "pending"):
        order_store.end_order(
            context.connection, order_id, "completed" if state == "expired" else "cancelled", now, 0, None
        )
    offering = context.offerings.sold(product.offering_version).offering
    if state == "expired":
        told.ended(context, subscriber.subscriber_id, product, offering)
    if offering.fulfilment is not None:
        delivered = work_store.delivery_of(context.vault, product.product_id)
        if delivered is not None and delivered.state == "done":
            request_work(context, subscriber.subscriber_id, product, offering, "withdraw")
            if product.state == "pendingActive":
                # The product was delivered, and a suspension kept it from beginning.
                order_store.end_order(
                    context.connection, product.order_id, "cancelled", now, 0, "cancelled before it began"
                )
        elif delivered is not None and delivered.state == "open":
            work_store.close_delivery(context.vault, delivered, "the order was cancelled", now)
            order_store.end_order(
                context.connection, product.order_id, "cancelled", now, 0, "cancelled before delivery"
            )


def request_work(
    context: Context,
    subscriber_id: UUID,
    product: Product,
    offering: Offering,
    action: Literal["deliver", "withdraw"],
) -> None:
    """Add a work order: the system behind the offering's fulfilment port is to deliver a product, or to withdraw it."""
    assert offering.fulfilment is not None
    work = WorkOrder(
        uuid7(), product.order_id, product.product_id, subscriber_id, offering.fulfilment, offering.id, product.delivery,
        action, "open", 1, None, context.clock.now(),
    )  # fmt: skip
    work_store.add_work_order(context.vault, work)
