"""Suspending and resuming a product, alone or with its subscriber."""

from dataclasses import replace
from uuid import UUID

from tokenworks.subscriptions.errors import ChangeNotAllowed
from tokenworks.subscriptions.model import Product, Subscriber
from tokenworks.subscriptions.orders import cycle, deliver, product_store, work_store
from tokenworks.subscriptions.orders.context import Context


def suspend(context: Context, product_id: UUID) -> None:
    """See `Orders.suspend`."""
    with context.connection.transaction():
        product, subscriber = context.lock_live(product_id)
        if product.state != "active":
            raise ChangeNotAllowed(f"product {product_id} is {product.state}")
        cycle.renew_due(context, subscriber, product)
        product_store.set_product(
            context.connection, product_id, state="suspended", suspended_at=context.clock.now()
        )
        context.ledger.set_paused(subscriber.account_id, product_id, paused=True)


def resume(context: Context, product_id: UUID) -> None:
    """See `Orders.resume`."""
    with context.connection.transaction():
        product, subscriber = context.lock_live(product_id)
        if product.state != "suspended":
            raise ChangeNotAllowed(f"product {product_id} is {product.state}")
        resume_product(context, subscriber, product)


def resume_product(context: Context, subscriber: Subscriber, product: Product) -> None:
    """As `resume`, for a locked product."""
    product_store.set_product(
        context.connection, product.product_id, state="active", suspended_at=None, held_at=None
    )
    context.ledger.set_paused(subscriber.account_id, product.product_id, paused=False)
    _begin_now(context, subscriber, replace(product, state="active"))


def resume_cycles(context: Context, subscriber: Subscriber) -> None:
    """See `Orders.resume_cycles`."""
    for unlocked in product_store.products(context.connection, subscriber.subscriber_id):
        found = product_store.lock_product(context.connection, unlocked.product_id)
        assert found is not None
        product = found[0]
        if product.state == "active":
            cycle.begin_or_hold(context, subscriber, product, _begin_now)
        elif product.state == "pendingActive":
            work = work_store.delivery_of(context.vault, product.product_id)
            if work is not None and work.state == "done":
                deliver.deliver(context, subscriber, work)


def _begin_now(context: Context, subscriber: Subscriber, product: Product) -> None:
    """If a product's cycle ended while the product did not renew, begin the next cycle now, for the rest of the month. The
    offering's proration policy says what that costs. Raises `CreditLimitReached`.
    """
    if cycle.is_due(context, subscriber, product):
        cycle.next_cycle(context, subscriber, product, begin=context.clock.now(), joined=True)
