"""What a change or a cancellation gives back: at once, or as soon as nothing of it is granted any more."""

from uuid import UUID

from tokenworks.subscriptions.orders import order_store
from tokenworks.subscriptions.orders.context import Context
from tokenworks.subscriptions.orders.order_book import LIST_MAX


def give_back(context: Context, order_id: UUID) -> bool:
    """Credit what a change or a cancellation took away, once nothing of it is granted any more. Whether that is so."""
    locked = order_store.lock_order(context.connection, order_id)
    if locked is None or locked[0] != "inProgress":
        return False
    amount = context.sales.give_back(locked[2], locked[1])
    if amount is None:
        return False
    order_store.end_order(context.connection, order_id, "completed", context.clock.now(), -amount, None)
    return True


def give_back_at_most(context: Context, order_id: UUID) -> bool:
    """See `Orders.give_back_at_most`."""
    locked = order_store.lock_order(context.connection, order_id)
    if locked is None or locked[0] != "inProgress":
        return False
    context.sales.give_back(locked[2], locked[1], at_most=True)
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
