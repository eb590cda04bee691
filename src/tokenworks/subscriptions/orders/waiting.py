"""Jobs that begin what waits: orders for later at their start, and held products when the credit limit allows their cycle."""

from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from tokenworks.catalog import SoldOffering
from tokenworks.charging import CreditLimitReached
from tokenworks.kernel import Conflict, Invalid, NotFound, Refused
from tokenworks.subscriptions.hub import notice_store
from tokenworks.subscriptions.model import Order, Subscriber
from tokenworks.subscriptions.orders import order_store, pause, place, product_store
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import check_eligible, check_may_buy
from tokenworks.subscriptions.people import people_store, suspension_store

BATCH: Final = 500
REASON_CHARS_MAX: Final = 200


def run_starts(context: Context) -> int:
    """Begin the orders whose start has come. Return how many. Runs on many hosts at once."""
    total = 0
    while due := order_store.due_starts(
        context.connection, context.clock.now(), context.failed.waiting("start"), BATCH
    ):
        for order_id in due:
            total += context.failed.run("start", order_id, partial(_start, context, order_id))
    return total


def release_held(context: Context) -> int:
    """Resume the held products whose next cycle the credit limit allows again. Return how many. Runs on many hosts at once."""
    total, after = 0, UUID(int=0)
    while held := product_store.held_products(
        context.connection, after, context.failed.waiting("cycle"), BATCH
    ):
        for product_id in held:
            resumed: list[UUID] = []
            if context.failed.run("cycle", product_id, partial(_release, context, product_id, resumed)):
                total += len(resumed)
        after = held[-1]
    return total


def _release(context: Context, product_id: UUID, resumed: list[UUID]) -> None:
    """Resume one held product, and append its id to `resumed`, if the credit limit allows its cycle."""
    product, subscriber = context.lock(product_id)
    context.failed.done("cycle", product_id)
    if not product.held or product.state != "suspended" or not subscriber.begins_cycles:
        return
    limit = subscriber.credit_limit_nano
    if limit is not None and context.charges.receivable(subscriber.account_id) > limit:
        return
    try:
        with context.connection.transaction():
            pause.resume_product(context, subscriber, product)
    except CreditLimitReached:
        return
    resumed.append(product_id)
    product, _ = context.lock(product_id)
    if product.state == "active":
        offering = context.offerings.sold(product.offering_version).offering
        notice_store.add_notification(
            context.connection, subscriber.subscriber_id, "credit_limit.released", f"{product_id}:{product.cycle_no}",
            {"offering": offering.id, "name": offering.name, "name_zh": offering.name_zh}, context.clock.now(),
        )  # fmt: skip


def _start(context: Context, order_id: UUID) -> None:
    """Begin an order whose start has come, at the version that was ordered. The checks of any order hold: a refused order fails,
    is charged nothing, and the subscriber gets a notice.
    """
    _, subscriber_id = _order(context, order_id)
    subscriber = people_store.lock_subscriber(context.vault, subscriber_id)
    order, _ = _order(context, order_id)
    assert subscriber is not None and order.starts_at is not None
    if order.state == "acknowledged":
        sold = context.offerings.sold(order.offering_version)
        try:
            with context.connection.transaction():
                _check_and_begin(context, subscriber, order, sold, order.starts_at)
        except (Conflict, Refused, NotFound, Invalid) as refusal:
            now, reason = context.clock.now(), str(refusal)[:REASON_CHARS_MAX]
            order_store.end_order(context.connection, order_id, "failed", now, 0, reason)
            notice_store.add_notification(
                context.connection, subscriber_id, "order.failed", str(order_id),
                {"name": sold.offering.name, "name_zh": sold.offering.name_zh, "at": order.starts_at.isoformat(),
                 "offering": order.offering_id, "reason": reason}, now,
            )  # fmt: skip
    context.failed.done("start", order_id)


def _check_and_begin(
    context: Context, subscriber: Subscriber, order: Order, sold: SoldOffering, starts_at: datetime
) -> None:
    check_may_buy(subscriber, "nothing can be ordered")
    check_eligible(
        context.connection, context.offerings, context.rules, subscriber, sold.offering, confirm=True,
        ordered_at=order.ordered_at,
    )  # fmt: skip
    # The order begins at its start, as if the job had run in time; after a suspension it begins now.
    stopped = suspension_store.was_stopped_since(context.connection, subscriber.subscriber_id, starts_at)
    place.begin(
        context, subscriber, order, sold, order.delivery, context.clock.now() if stopped else starts_at
    )


def _order(context: Context, order_id: UUID) -> tuple[Order, UUID]:
    found = order_store.order(context.connection, order_id)
    assert found is not None
    return found
