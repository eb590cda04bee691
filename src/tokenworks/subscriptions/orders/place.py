"""Placing an order, and making its products, their buckets and charges."""

from dataclasses import replace
from datetime import date, datetime
from uuid import UUID

from tokenworks.catalog import Offering, SoldOffering
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.errors import TooManyToCome
from tokenworks.subscriptions.model import Order, Product, Subscriber, check_idempotency_key
from tokenworks.subscriptions.orders import deliver, order_store, product_store, products, told
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import check_delivery, check_eligible, check_may_buy
from tokenworks.subscriptions.orders.sales import end_of_cycle
from tokenworks.subscriptions.orders.starts import TO_COME_MAX, same_start, start_of
from tokenworks.subscriptions.people import people_store
from tokenworks.trust.identity.answers import KeyReused


def order(
    context: Context,
    subscriber: Subscriber,
    offering_id: str,
    idempotency_key: str | None = None,
    *,
    delivery: str | None = None,
    confirm: bool = False,
    start: date | None = None,
) -> Order:
    """See `Orders.place`."""
    check_idempotency_key(idempotency_key)
    with context.connection.transaction():
        locked = people_store.lock_subscriber(context.vault, subscriber.subscriber_id)
        assert locked is not None
        if idempotency_key is not None:
            before = order_store.find_order(context.connection, locked.subscriber_id, idempotency_key)
            if before is not None:
                is_same_start = same_start(before.starts_at, before.ordered_at, start)
                if before.offering_id != offering_id or before.action != "add" or not is_same_start:
                    raise KeyReused(
                        f"the idempotency key was used for {before.offering_id}: take another one"
                    )
                return before
        check_may_buy(locked, "nothing can be ordered")
        now = context.clock.now()
        starts_at = None if start is None else start_of(start, now)
        sold = context.offerings.on_sale(offering_id, now)
        check_eligible(
            context.connection, context.offerings, context.rules, locked, sold.offering, confirm=confirm
        )  # fmt: skip
        check_delivery(sold.offering, delivery)
        order = Order(
            uuid7(), uuid7(), offering_id, sold.offering_version, now, 0, sold.offering.currency, new=True,
            state="inProgress" if starts_at is None else "acknowledged", starts_at=starts_at,
            delivery=None if starts_at is None else delivery, has_product=starts_at is None,
        )  # fmt: skip
        if starts_at is not None:
            _check_waiting_orders(context, locked)
        order_store.add_order(context.connection, locked, order, idempotency_key)
        return order if starts_at is not None else begin(context, locked, order, sold, delivery, now)


def _check_waiting_orders(context: Context, subscriber: Subscriber) -> None:
    """Raises `TooManyToCome`."""
    if len(order_store.orders_to_come(context.connection, subscriber.subscriber_id)) >= TO_COME_MAX:
        raise TooManyToCome(f"{TO_COME_MAX} orders wait for their start: cancel one, or order later")


def begin(
    context: Context,
    subscriber: Subscriber,
    order: Order,
    sold: SoldOffering,
    delivery: str | None,
    at: datetime,
) -> Order:
    """Make the products of a stored order, with their buckets and charges, as of a time. Return the order as it is then."""
    check_limit = context.charges.credit_limit_check(subscriber.account_id, subscriber.credit_limit_nano)
    amount = _add_product(context, subscriber, order, order.product_id, sold, None, delivery, None, at)
    parts = context.sales.parts(subscriber, sold, order.product_id, at, order.ordered_at)
    for part, price_nano in parts:
        amount += _add_product(
            context, subscriber, order, uuid7(), part, order.product_id, delivery, price_nano, at
        )
    # The credit limit counts now what is charged with the delivery: the order can't be refused then.
    own = context.sales.own_price(subscriber, sold.offering, order.product_id, at)
    check_limit(sum(price for part, price in [*parts, (sold, own)] if part.offering.fulfilment))
    order = replace(order, amount_nano=amount)
    if deliver.is_delivered(context, order.order_id):
        order = replace(order, state="completed", completed_at=context.clock.now())
        order_store.end_order(
            context.connection, order.order_id, "completed", context.clock.now(), amount, None
        )
        told.order_done(context, subscriber.subscriber_id, order.order_id, sold.offering)
    else:
        order_store.set_order_state(context.connection, order.order_id, "inProgress")
        order_store.add_amount(context.connection, order.order_id, amount)
    return order


def _add_product(
    context: Context,
    subscriber: Subscriber,
    order: Order,
    product_id: UUID,
    sold: SoldOffering,
    parent_id: UUID | None,
    delivery: str | None,
    price_nano: int | None,
    at: datetime,
) -> int:
    """Add one product of an order. Return what is charged now, in nano: 0 for a product that another system delivers."""
    offering = sold.offering
    is_delivered_later = offering.fulfilment is not None
    product = Product(
        product_id=product_id,
        order_id=order.order_id,
        offering_id=offering.id,
        offering_version=sold.offering_version,
        state="pendingActive" if is_delivered_later else "active",
        renews=offering.cycle != "once",
        cycle_no=1,
        started_at=at,
        cycle_start=at,
        cycle_end=end_of_cycle(offering, at, at),
        parent_id=parent_id,
        delivery=_delivery_of(offering, delivery) if is_delivered_later else None,
        price_nano=price_nano,
    )
    product_store.add_product(context.connection, subscriber, product)
    if is_delivered_later:
        products.request_work(context, subscriber.subscriber_id, product, offering, "deliver")
        return 0
    return products.activate(context, subscriber, product, sold, price_nano)


def _delivery_of(offering: Offering, wanted: str | None) -> str | None:
    """The way of delivery that was ordered, else the first one of the offering."""
    return wanted or (offering.deliveries[0] if offering.deliveries else None)
