"""The next cycle of a product that is due: it begins, the credit limit holds the product, or the product ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from tokenworks.charging import CreditLimitReached
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import order_store, product_store, products, told
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import check_live
from tokenworks.subscriptions.orders.sales import end_of_cycle


def is_due(context: Context, subscriber: Subscriber, product: Product) -> bool:
    """True if the cycle of an active product is over, and the product ends, or renews and no suspension stops that."""
    over = product.cycle_end is not None and product.cycle_end <= context.clock.now()
    ends = not product.renews or product.ends_after_cycle
    return product.state == "active" and over and (ends or subscriber.begins_cycles)


def renew(context: Context, product_id: UUID) -> None:
    """Begin the next cycle of a product that is due, or end the product. The job of one product, in a transaction of its own."""
    product, subscriber = context.lock(product_id)
    if is_due(context, subscriber, product):
        begin_or_hold(context, subscriber, product, _begin_at_cycle_end)
    context.failed.done("cycle", product_id)


def catch_up(context: Context, product_id: UUID) -> None:
    """See `Orders.catch_up`."""
    product, subscriber = context.lock(product_id)
    _begin_due_cycles(context, subscriber, product)


def renew_due(context: Context, subscriber: Subscriber, product: Product) -> Product:
    """Begin the cycles of a locked product that are due, and return the product as the monthly job leaves it. So an operation
    between the end of a cycle and the job belongs to the next cycle, as if the job had run in time. Raises `ProductEnded` if the
    product ended with its cycle.
    """
    product = _begin_due_cycles(context, subscriber, product)
    check_live(product)
    return product


def _begin_due_cycles(context: Context, subscriber: Subscriber, product: Product) -> Product:
    while is_due(context, subscriber, product):
        begin_or_hold(context, subscriber, product, _begin_at_cycle_end)
        found = product_store.lock_product(context.connection, product.product_id)
        assert found is not None
        product = found[0]
    return product


def _begin_at_cycle_end(context: Context, subscriber: Subscriber, product: Product) -> None:
    next_cycle(context, subscriber, product, begin=product.cycle_end)


def next_cycle(
    context: Context,
    subscriber: Subscriber,
    product: Product,
    *,
    begin: datetime | None,
    joined: bool = False,
) -> None:
    """Begin the next cycle of a locked product at a time, or end the product if it does not renew. `joined`: the product is
    resumed in this cycle. Raises `CreditLimitReached`.
    """
    assert begin is not None
    if product.parent_id is not None:
        bundle = product_store.lock_product(context.connection, product.parent_id)
        # The price of the part comes from the bundle's version of that cycle, so that the bundle's cycle begins first.
        if bundle is not None and is_due(context, subscriber, bundle[0]):
            next_cycle(context, subscriber, bundle[0], begin=bundle[0].cycle_end)
    if not product.renews or product.ends_after_cycle:
        products.end(context, product, subscriber, "expired")
        return
    version = product.next_version or product.offering_version
    sold = context.offerings.sold(version)
    renewed = replace(
        product, offering_version=version, offering_id=sold.offering.id, cycle_no=product.cycle_no + 1,
        cycle_start=begin, cycle_end=end_of_cycle(sold.offering, product.started_at, begin), next_version=None,
    )  # fmt: skip
    if version != product.offering_version:
        context.ledger.withdraw_windows(subscriber.account_id, product.product_id)
        products.open_windows(context, subscriber, renewed, sold, begin)
        for order_id in order_store.waiting_orders(context.connection, product.product_id, "pending"):
            order_store.end_order(context.connection, order_id, "completed", context.clock.now(), 0, None)
    product_store.set_product(
        context.connection, product.product_id, offering_version=version, cycle_no=renewed.cycle_no, cycle_start=begin,
        cycle_end=renewed.cycle_end, next_version=None,
    )  # fmt: skip
    told.renewed(context, subscriber.subscriber_id, renewed, sold.offering)
    check_limit = context.charges.credit_limit_check(subscriber.account_id, subscriber.credit_limit_nano)
    context.sales.cycle(subscriber, renewed, sold, joined=joined)
    check_limit(0)


def begin_or_hold(
    context: Context,
    subscriber: Subscriber,
    product: Product,
    begin: Callable[[Context, Subscriber, Product], None],
) -> None:
    """Begin a product's next cycle with `begin`, or hold the product if the credit limit does not allow the cycle."""
    try:
        with context.connection.transaction():
            begin(context, subscriber, product)
    except CreditLimitReached:
        _hold(context, subscriber, product)


def _hold(context: Context, subscriber: Subscriber, product: Product) -> None:
    """Suspend a product whose next cycle the credit limit does not allow, charge nothing, and send the subscriber a notice.
    `waiting.release_held` resumes the product when the limit allows its cycle.
    """
    now, offering = context.clock.now(), context.offerings.sold(product.offering_version).offering
    product_store.set_product(
        context.connection, product.product_id, state="suspended", suspended_at=now, held_at=now
    )
    context.ledger.set_paused(subscriber.account_id, product.product_id, paused=True)
    notice_store.add_notification(
        context.connection, subscriber.subscriber_id, "credit_limit", f"{product.product_id}:{product.cycle_no}",
        {"offering": offering.id, "name": offering.name, "name_zh": offering.name_zh, "limit_nano": subscriber.credit_limit_nano}, now,
    )  # fmt: skip
