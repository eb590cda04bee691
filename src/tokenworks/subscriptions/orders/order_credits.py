"""The credits of changes and cancellations: booked at once, or when the last grant of the old buckets is closed."""

from uuid import UUID

from tokenworks.subscriptions.orders import order_store
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.order_book import LIST_MAX


def give_back(context: Context, order_id: UUID) -> bool:
    """Book the credits of a change or a cancellation, and complete the order. Return False, and do nothing, while a grant of
    the old buckets is open.
    """
    locked = order_store.lock_order(context.connection, order_id)
    if locked is None or locked[0] != "inProgress":
        return False
    _, request, account_id = locked
    amount = context.sales.give_back(account_id, request)
    if amount is None:
        return False
    order_store.end_order(context.connection, order_id, "completed", context.clock.now(), -amount, None)
    return True


def give_back_at_most(context: Context, order_id: UUID) -> bool:
    """See `Orders.give_back_at_most`."""
    locked = order_store.lock_order(context.connection, order_id)
    if locked is None or locked[0] != "inProgress":
        return False
    _, request, account_id = locked
    context.sales.give_back(account_id, request, at_most=True)
    return True


def finish(context: Context) -> int:
    """See `Orders.finish_changes`."""
    done = 0
    for order_id in order_store.orders_with_credits(
        context.connection, context.failed.waiting("credit"), LIST_MAX
    ):

        def step(order_id: UUID = order_id) -> None:
            nonlocal done
            done += give_back(context, order_id)
            context.failed.done("credit", order_id)

        context.failed.run("credit", order_id, step)
    return done
