"""Changing a product to another plan, now or with its next cycle."""

from dataclasses import replace
from typing import Literal
from uuid import UUID

from tokenworks.catalog import SoldOffering
from tokenworks.charging import CreditLimitReached
from tokenworks.kernel import uuid7
from tokenworks.subscriptions.errors import ChangeNotAllowed
from tokenworks.subscriptions.model import CreditRequest, Order, Product, Subscriber
from tokenworks.subscriptions.orders import cycle, order_credits, order_store, product_store, products
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import (
    change_refusal,
    check_eligible,
    check_live,
    check_may_buy,
)

ChangeTiming = Literal["now", "cycle_end"]


def plan(
    context: Context,
    product_id: UUID,
    offering_id: str,
    when: ChangeTiming = "now",
    idempotency_key: str | None = None,
    *,
    confirm: bool = False,
) -> Order:
    """See `Orders.change`."""
    with context.connection.transaction():
        product, subscriber = context.lock(product_id)
        before = context.find_repeated(subscriber, product_id, idempotency_key, "modify", offering_id)
        if before is not None:
            return before
        check_live(product)
        check_may_buy(subscriber, "nothing can be changed")
        if product.state != "active":
            raise ChangeNotAllowed(f"product {product_id} is {product.state}")
        product = cycle.renew_due(context, subscriber, product)
        if product.state != "active":
            raise CreditLimitReached(
                "the next cycle costs more than the credit limit allows: a bill has to be paid first"
            )
        now = context.clock.now()
        old, sold = (
            context.offerings.sold(product.offering_version),
            context.offerings.on_sale(offering_id, now),
        )
        if "free_until_next_cycle" in {old.offering.proration, sold.offering.proration}:
            when = "cycle_end"
        _check_possible(context, product, old, sold)
        check_eligible(
            context.connection, context.offerings, context.rules, subscriber, sold.offering, confirm=confirm, instead_of=product
        )  # fmt: skip
        order = Order(
            uuid7(), product_id, offering_id, sold.offering_version, now, 0, sold.offering.currency, new=True,
            action="modify", state="pending" if when == "cycle_end" else "inProgress",
        )  # fmt: skip
        for replaced_id in order_store.waiting_orders(context.connection, product_id, "pending"):
            order_store.end_order(
                context.connection, replaced_id, "cancelled", now, 0, "replaced by another change"
            )
        order_store.add_order(context.connection, subscriber, order, idempotency_key)
        if when == "cycle_end":
            product_store.set_product(
                context.connection, product_id, next_version=sold.offering_version, ends_after_cycle=False
            )
            return order
        check_limit = context.charges.credit_limit_check(subscriber.account_id, subscriber.credit_limit_nano)
        _switch(context, subscriber, product, sold, order)
        check_limit(0)
        found = order_store.order(context.connection, order.order_id)
        assert found is not None
    return replace(found[0], new=True)


def _check_possible(context: Context, product: Product, old: SoldOffering, sold: SoldOffering) -> None:
    """Raises `ChangeNotAllowed`."""
    refusal = change_refusal(old.offering, product, sold)
    if refusal is not None:
        raise ChangeNotAllowed(refusal)
    if order_store.waiting_orders(context.connection, product.product_id, "inProgress"):
        raise ChangeNotAllowed("a change of this product is in progress: wait until it is done")


def _switch(
    context: Context, subscriber: Subscriber, product: Product, sold: SoldOffering, order: Order
) -> None:
    """Change a locked product to another plan as of the order's time: withdraw the old plan's quantity, charge the new plan and
    open its buckets.
    """
    now = order.ordered_at
    request: CreditRequest = {"why": "changed", "credits": context.sales.credits(product, now)}
    # Quantity that rolled over from an earlier month stays: that month's charge paid for it.
    context.ledger.withdraw_charge(subscriber.account_id, product.product_id, product.charge_id)
    context.ledger.withdraw_windows(subscriber.account_id, product.product_id)
    context.charges.stop(subscriber.account_id, product.product_id)
    changed = replace(product, offering_version=sold.offering_version, offering_id=sold.offering.id)
    product_store.set_product(
        context.connection, product.product_id, offering_version=sold.offering_version, next_version=None, ends_after_cycle=False
    )  # fmt: skip
    amount = context.sales.change(subscriber, changed, sold, now)
    products.open_windows(context, subscriber, changed, sold, now)
    order_store.set_credit_request(context.connection, order.order_id, request)
    order_store.add_amount(context.connection, order.order_id, amount)
    order_credits.give_back(context, order.order_id)
