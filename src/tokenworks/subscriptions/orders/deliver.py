"""Answers of delivering systems: a delivery begins its product, a refused delivery fails its order."""

from dataclasses import replace
from typing import Final, Literal
from uuid import UUID

from tokenworks.subscriptions.errors import WorkOrderAnswered, WorkOrderNotFound
from tokenworks.subscriptions.model import Subscriber, WorkOrder
from tokenworks.subscriptions.orders import order_store, product_store, products, told, work_store
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.eligibility import checked_reason
from tokenworks.subscriptions.orders.sales import end_of_cycle
from tokenworks.subscriptions.people import people_store

# Requests for one delivery that is refused for now; after the last one the order fails and is reversed.
DELIVERY_ATTEMPTS_MAX: Final = 3


def is_delivered(context: Context, order_id: UUID) -> bool:
    """True if no product of an order waits for its delivery."""
    return all(
        product.state != "pendingActive"
        for product in product_store.products_of_order(context.connection, order_id)
    )


def answer(
    context: Context,
    work_order_id: UUID,
    *,
    done: bool,
    reason: str | None = None,
    again: bool = False,
    attempt: int | None = None,
    timed_out: bool = False,
) -> Literal["open", "done", "refused"]:
    """See `Orders.answer`."""
    reason = checked_reason(reason)
    with context.connection.transaction():
        subscriber_id = work_store.subscriber_of_work_order(context.connection, work_order_id)
        subscriber = subscriber_id and people_store.lock_subscriber(context.vault, subscriber_id)
        work = work_store.lock_work_order(context.vault, work_order_id)
        if work is None or not subscriber:
            raise WorkOrderNotFound(f"there is no work order {work_order_id}: tokenworks order work list")
        if work.state != "open":
            if done and work.state == "refused" and work.action == "deliver":
                work_store.withdraw_delivery(context.vault, work, context.clock.now())
            elif done != (work.state == "done"):
                raise WorkOrderAnswered(f"work order {work_order_id} is {work.state} already")
            return work.state
        if attempt is not None and attempt < work.attempts:
            return "open"
        now = context.clock.now()
        state: Literal["open", "done", "refused"] = "done" if done else "refused"
        attempts = work.attempts
        if not done and again and attempts < DELIVERY_ATTEMPTS_MAX:
            state, attempts = "open", attempts + 1
        work_store.answer_work_order(context.connection, work_order_id, state, attempts, reason, now)
        if state == "open":
            work_store.repeat_request(context.connection, work_order_id, now)
        if work.action == "deliver" and state == "done":
            deliver(context, subscriber, work)
        elif work.action == "deliver" and state == "refused":
            _fail(context, subscriber, work, reason or "the delivery was refused")
        if timed_out:  # the delivering system may have delivered without an answer
            work_store.withdraw_delivery(context.vault, work, now)
    return state


def deliver(context: Context, subscriber: Subscriber, work: WorkOrder) -> None:
    """Begin and charge a delivered product, and complete its order if no other product of the order waits."""
    found = product_store.lock_product(context.connection, work.product_id)
    assert found is not None
    product = found[0]
    # While a suspension stops charging, the product does not begin: `pause.resume_cycles` begins it after the suspension.
    if product.state != "pendingActive" or not subscriber.begins_cycles:
        return
    now, sold = context.clock.now(), context.offerings.sold(product.offering_version)
    product = replace(
        product, state="active", started_at=now, cycle_start=now, cycle_end=end_of_cycle(sold.offering, now, now)
    )  # fmt: skip
    product_store.set_product(
        context.connection, product.product_id, state="active", started_at=now, cycle_start=now, cycle_end=product.cycle_end
    )  # fmt: skip
    amount = products.activate(context, subscriber, product, sold)
    if is_delivered(context, work.order_id):
        order_store.end_order(context.connection, work.order_id, "completed", now, amount, None)
        told.order_done(context, subscriber.subscriber_id, work.order_id, sold.offering)
    else:
        order_store.add_amount(context.connection, work.order_id, amount)


def _fail(context: Context, subscriber: Subscriber, work: WorkOrder, reason: str) -> None:
    """Fail the product order of a work order: credit its charges, end its products, close its other deliveries."""
    given_back = 0
    for product in product_store.products_of_order(context.connection, work.order_id):
        if product.state in {"active", "suspended"}:
            charges = context.charges.of_product(product.product_id)
            products.end(context, product, subscriber, "aborted")
            for charge in charges:
                left_nano = charge.amount_nano - charge.credited_nano
                if charge.kind in {"cycle", "change", "step"} and left_nano:
                    context.charges.credit(
                        charge,
                        left_nano,
                        "credit",
                        f"{charge.description}: not delivered",
                        f"{charge.description_zh}（未交付）",
                    )
                    given_back += left_nano
        elif product.state == "pendingActive":
            product_store.set_product(
                context.connection, product.product_id, state="aborted", ended_at=context.clock.now()
            )
            other = work_store.delivery_of(context.vault, product.product_id)
            if other is not None and other.state == "open":
                work_store.close_delivery(context.vault, other, reason, context.clock.now())
    order_store.end_order(
        context.connection, work.order_id, "failed", context.clock.now(), -given_back, reason
    )
